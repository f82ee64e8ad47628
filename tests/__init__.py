"""Tests of capsexp, laid out like the package."""
