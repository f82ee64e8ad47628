"""Experiments on pruning and capsule networks, configured by Hydra and trained by Lightning."""

from capsexp import renamed

__version__ = "0.1.0"

renamed.install()
