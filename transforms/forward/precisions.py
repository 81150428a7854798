"""The precisions available for a forward pass, one row each. Imports no TensorFlow."""

# Name -> help.
PRECISIONS = {
    "float32": "float32 (default)",
    # See `mixed_precision`.
    "mixed": "mixed: bfloat16 after the first convolution, where the hardware supports it",
}
