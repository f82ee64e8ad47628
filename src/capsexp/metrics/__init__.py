"""Streaming measurements of a net, as ``torchmetrics.Metric`` subclasses and the pure functions under them."""
