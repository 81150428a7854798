"""Scores of how in-distribution an image is: ODIN, and detectors on the clean forward pass. High = in-distribution."""
