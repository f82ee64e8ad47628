"""Hydra's way into capsexp's engines: a launcher, and the sweeper that goes with it."""
