"""Streaming metrics of a network, as ``torchmetrics.Metric`` subclasses, and the pure functions that they use."""
