"""JPEG images several at once: one graph decodes them and brings them to the classifier's size.

Image by image, the threads that decode hand Python's lock to each other a dozen times for each one; a graph takes it
once. What the graph cannot take goes the way of all other images, `decoding.pixels`, which gives the same pixels to the
bit.
"""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from odin_beam.transforms import limits
from odin_beam.transforms.errors import ImageError
from odin_beam.transforms.images import resize
from odin_beam.transforms.images.geometry import JPEG_METHODS, Geometry, Placement, placement
from odin_beam.transforms.images.jpeg import JPEG_START

# At once, unless they are so large that their numbers are more than so many (64 MB).
_IMAGES_AT_ONCE = 64
_VALUES_AT_ONCE = 1 << 24


def jpegs_at_once(input_shape: tuple[int, int, int]) -> int:
    """How many images are best given to `decode_jpegs` at once, by (height, width, channels) of the classifier."""
    return min(_IMAGES_AT_ONCE, max(1, _VALUES_AT_ONCE // math.prod(input_shape)))


def decode_jpegs(encoded: Sequence[bytes], geometry: Geometry, out: np.ndarray) -> list[bool]:
    """Decodes those of the images that are JPEG and whose channels are the classifier's.

    Args:
      encoded: N images of any format.
      geometry: what to do with images of another size.
      out: float32 [N, height, width, channels], of the classifier's input, channels 1 or 3; each image that is decoded
        is put into its place there, in [0, 1].

    Returns:
      Whether each image was decoded. If not, ask `decoding.pixels`: the image is of another format, or something is
      wrong with it or with another one.
    """
    input_shape = out.shape[1:]
    jpegs = [i for i, data in enumerate(encoded) if data.startswith(JPEG_START)]
    if not jpegs:
        return [False] * len(encoded)
    try:
        contents = tf.constant([encoded[i] for i in jpegs])
        shapes = _shapes()(contents).numpy().tolist()
        placements = {
            at: placement
            for at, shape in enumerate(shapes)
            if (placement := _placement(shape, input_shape, geometry)) is not None
        }
        if not placements:
            return [False] * len(encoded)
        sizes, corners = zip(*placements.values(), strict=True)
        graph = _pixels(input_shape, geometry.interpolation, geometry.antialias, geometry.jpeg)
        made = np.asarray(graph(contents, tf.constant(list(placements)), tf.constant(sizes), tf.constant(corners)))
    except tf.errors.OpError:
        # Which of them it was, and what is wrong with it, shows when they are taken one by one.
        return [False] * len(encoded)
    if len(made) == len(encoded):
        resize.to_unit(made, geometry, out)
        return [True] * len(encoded)
    taken = [jpegs[at] for at in placements]
    for i, image in zip(taken, made, strict=True):
        resize.to_unit(image, geometry, out[i])
    return [i in taken for i in range(len(encoded))]


def _placement(shape: Sequence[int], input_shape: tuple[int, int, int], geometry: Geometry) -> Placement | None:
    """Where an image of this (height, width, channels) goes; None for one that is not for the graph."""
    *size, channels = shape
    if channels != input_shape[2] or size[0] * size[1] > limits.MAX_PIXELS:
        return None
    try:
        return placement((size[0], size[1]), input_shape[:2], geometry)
    except ImageError:
        return None


@functools.cache
def _shapes() -> tf.types.experimental.ConcreteFunction:
    """Encoded images [N] -> int32 [N, 3]."""

    def shapes(contents: tf.Tensor) -> tf.Tensor:
        return _each(tf.io.extract_jpeg_shape, contents, tf.TensorSpec([3], tf.int32))

    return _traced(shapes, tf.TensorSpec([None], tf.string))


@functools.cache
def _pixels(
    input_shape: tuple[int, int, int], interpolation: str, antialias: bool, jpeg: str
) -> tf.types.experimental.ConcreteFunction:
    """Encoded images [N], which of them to take int32 [M], and of each of these the size that it is scaled to and the
    upper left corner of what is kept of it, int32 [M, 2] -> float32 [M, *input_shape].
    """

    def pixels(contents: tf.Tensor, at: tf.Tensor, size: tf.Tensor, corner: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(contents[at], input_shape[2], dct_method=JPEG_METHODS[jpeg])

        def resized() -> tf.Tensor:
            return tf.cast(tf.image.resize(image[None], size, interpolation, antialias=antialias)[0], tf.float32)

        as_it_is = tf.reduce_all(tf.shape(image)[:2] == size)
        scaled = tf.cond(as_it_is, lambda: tf.cast(image, tf.float32), resized)
        return tf.slice(scaled, tf.concat([corner, [0]], 0), input_shape)

    def all_pixels(contents: tf.Tensor, *placed: tf.Tensor) -> tf.Tensor:
        return _each(lambda one: pixels(contents, *one), placed, tf.TensorSpec(input_shape, tf.float32))

    number, pair = tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, 2], tf.int32)
    return _traced(all_pixels, tf.TensorSpec([None], tf.string), number, pair, pair)


def _each(function: Callable, elements, result: tf.TensorSpec) -> tf.Tensor:
    """One after the other: the other cores have images of their own, and memory holds one as large as it came."""
    return tf.map_fn(function, elements, parallel_iterations=1, fn_output_signature=result)


def _traced(function: Callable, *signature: tf.TensorSpec) -> tf.types.experimental.ConcreteFunction:
    def on_cpu(*arguments: tf.Tensor) -> tf.Tensor:
        with tf.device("/CPU:0"):
            return function(*arguments)

    return tf.function(on_cpu, input_signature=signature, autograph=False).get_concrete_function()
