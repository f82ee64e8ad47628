"""Recipes: what a cell does from start to end."""
