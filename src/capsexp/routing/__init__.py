"""Routing algorithms, one per file: from votes to the poses of the parents."""
