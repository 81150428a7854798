"""Checks that a classifier is understood: what its layers reveal, and what only images can show."""
