"""Pruning: criteria for channels, the selection of channels, and the construction of a smaller model."""
