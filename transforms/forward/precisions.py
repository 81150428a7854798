"""The precisions that a forward pass can have, one row each. Imports no TensorFlow."""

# Name -> help.
PRECISIONS = {
    "float32": "float32 (default)",
    # See `mixed_precision`.
    "mixed": "mixed: bfloat16 behind the first convolution, where the hardware supports it",
}
