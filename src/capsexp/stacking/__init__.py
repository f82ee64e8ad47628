"""Stacks: many small networks that are trained together, with one training step for all."""
