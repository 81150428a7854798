"""Brings pixels of any size to the classifier's size and to [0, 1]."""

import numpy as np
import tensorflow as tf

from odin_beam.transforms.images.geometry import Geometry, placement


def fit(image: np.ndarray, size: tuple[int, int], geometry: Geometry, out: np.ndarray | None = None) -> np.ndarray:
    """Brings an image to the classifier's size and to [0, 1].

    Args:
      image: uint8 [h, w, channels].
      size: (height, width) of the result.
      geometry: the rules for scaling and cropping.
      out: float32 [height, width, channels] to write to; None to allocate an array. For large images, allocating
        memory for each takes longer than decoding.

    Returns:
      float32 [height, width, channels] in [0, 1].

    Raises:
      ImageError: as in `placement`.
    """
    scaled, (top, left) = placement(image.shape[:2], size, geometry)
    if scaled != image.shape[:2]:
        image = _resized(image, scaled, geometry)
    return to_unit(image[top : top + size[0], left : left + size[1]], geometry, out)


def to_unit(image: np.ndarray, geometry: Geometry, out: np.ndarray | None = None) -> np.ndarray:
    """Scales an image of the right size to [0, 1].

    Args:
      image: uint8 or float32 [height, width, channels], 0 to 255 or, depending on the interpolation, slightly beyond.
      geometry: used to resize it.
      out: float32 of that shape to write to; None to allocate an array.

    Returns:
      float32 [height, width, channels] in [0, 1].
    """
    scaled = np.divide(image, np.float32(255), out=out)
    within = image.dtype == np.uint8 or (geometry.interpolation == "bilinear" and not geometry.antialias)
    return scaled if within else np.clip(scaled, 0, 1, out=scaled)


def _resized(image: np.ndarray, size: tuple[int, int], geometry: Geometry) -> np.ndarray:
    with tf.device("/CPU:0"):
        # A batch of one: TensorFlow would otherwise add that dimension itself, which is slower.
        resized = tf.image.resize(image[None], size, geometry.interpolation, antialias=geometry.antialias)
    return np.asarray(resized)[0].astype(np.float32, copy=False)
