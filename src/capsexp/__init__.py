"""Experiments on pruning and capsule networks, configured by Hydra and trained by Lightning."""

__version__ = "0.1.0"
