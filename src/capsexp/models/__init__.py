"""Architectures: plain ``nn.Module`` classes, sized by their arguments."""
