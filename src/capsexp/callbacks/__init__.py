"""Callbacks: they decide when something happens during a fit, and watch without touching the model's code."""
