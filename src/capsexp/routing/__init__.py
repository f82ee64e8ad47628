"""Routing algorithms, one a file: from votes to the parents' poses."""
