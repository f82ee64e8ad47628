"""Recipes: the work of a cell from start to end."""
