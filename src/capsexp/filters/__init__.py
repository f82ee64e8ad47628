"""Filters of the images whose couplings enter the master coefficients, one per file."""
