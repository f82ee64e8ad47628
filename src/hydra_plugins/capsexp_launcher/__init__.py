"""Hydra plugins for capsexp's engines: a launcher and two sweepers."""
