"""One JPEG image, decoded by TensorFlow."""

import math

import numpy as np
import tensorflow as tf

from odin_beam.transforms import limits

JPEG_START = b"\xff\xd8\xff"


def plain_jpeg(data: bytes, channels: int, method: str) -> np.ndarray | None:
    """The pixels of a JPEG with this number of channels; None if TensorFlow does not recognise it as such.

    With the accurate method they are bit-identical to Pillow's. TensorFlow comes first because it also accepts a few
    damaged files that Pillow refuses: the result must not depend on which batch `decode_jpegs` gave up.
    """
    contents = tf.constant(data)
    try:
        *size, actual_channels = tf.io.extract_jpeg_shape(contents).numpy().tolist()
        if actual_channels != channels or math.prod(size) > limits.MAX_PIXELS:
            return None
        return np.asarray(tf.io.decode_jpeg(contents, channels, dct_method=method))
    except tf.errors.OpError:
        # The caller's fallback says what is wrong with it.
        return None
