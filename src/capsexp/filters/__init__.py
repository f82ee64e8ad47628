"""Which images' couplings are good enough for the master coefficients: one method a file."""
