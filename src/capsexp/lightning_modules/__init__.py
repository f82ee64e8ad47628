"""LightningModules: one shared step, metrics and an optimizer around an architecture."""
