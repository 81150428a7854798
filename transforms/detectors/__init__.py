"""Scores of how in-distribution an image is: ODIN, and those of the clean forward pass. High = in-distribution."""
