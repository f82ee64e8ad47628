"""Slow, plain references that the tests compare with: nested loops in float64, nothing taken from capsexp."""
