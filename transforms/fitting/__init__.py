"""Statistics of in-distribution features that the fitted detectors need; in NumPy, mergeable, no TensorFlow."""
