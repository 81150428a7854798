"""The precisions that a forward pass can have. Imports no TensorFlow."""

# `mixed`: see `mixed_precision`.
PRECISIONS = ("float32", "mixed")
