"""From in-distribution scores to a calibration, and from a calibration to flags."""
