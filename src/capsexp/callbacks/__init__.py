"""Callbacks, which control a fit and observe it without changes to the model's code."""
