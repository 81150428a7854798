"""Computes detection metrics from scores, in memory that does not grow with the archive."""
