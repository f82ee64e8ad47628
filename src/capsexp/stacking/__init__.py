"""Stacks: many small networks trained together, one training step for all."""
