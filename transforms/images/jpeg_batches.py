"""JPEG images in batches: one graph decodes them and brings them to the classifier's size.

When images are decoded one at a time, the decoding threads exchange Python's lock a dozen times per image; a graph
takes it once. Images that the graph cannot handle go through `decoding.pixels`, with bit-identical pixels.
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
from odin_beam.transforms.images.jpeg import JPEG_START, checked_jpeg, seems_cut

# Images in one batch; fewer if they are so large that they exceed this number of values (64 MB).
_IMAGES_AT_ONCE = 64
_VALUES_AT_ONCE = 1 << 24


def jpegs_at_once(input_shape: tuple[int, int, int]) -> int:
    """The best number of images for one call of `decode_jpegs`, given the classifier's (height, width, channels)."""
    return min(_IMAGES_AT_ONCE, max(1, _VALUES_AT_ONCE // math.prod(input_shape)))


def decode_jpegs(encoded: Sequence[bytes], geometry: Geometry, out: np.ndarray) -> list[bool]:
    """Decodes the images that are JPEG and have as many channels as the classifier's input.

    Args:
      encoded: N images of any format.
      geometry: how to handle images of another size.
      out: float32 [N, height, width, channels], of the classifier's input, channels 1 or 3; each decoded image is
        written to its place, in [0, 1].

    Returns:
      Whether each image was decoded. If not, use `decoding.pixels`: the image has another format, may be cut, or it or
      another image is damaged.
    """
    input_shape = out.shape[1:]
    jpegs = [i for i, data in enumerate(encoded) if data.startswith(JPEG_START) and _is_sound(data)]
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
        placed = tf.constant(list(placements)), tf.constant(sizes), tf.constant(corners)
        decoded, last_pixels = map(np.asarray, graph(contents, *placed))
    except tf.errors.OpError:
        # Decoding the images separately shows which one failed, and why.
        return [False] * len(encoded)
    whole = [not seems_cut(pixel) for pixel in last_pixels.tolist()]
    if len(decoded) == len(encoded) and all(whole):
        resize.to_unit(decoded, geometry, out)
        return [True] * len(encoded)
    is_decoded = [False] * len(encoded)
    for at, image, is_whole in zip(placements, decoded, whole, strict=True):
        if is_whole:
            resize.to_unit(image, geometry, out[jpegs[at]])
            is_decoded[jpegs[at]] = True
    return is_decoded


def _is_sound(data: bytes) -> bool:
    """Whether `decoding.decode` takes the JPEG without a closer look, judging by its segments."""
    try:
        return checked_jpeg(data) is data
    except ImageError:
        return False


def _placement(shape: Sequence[int], input_shape: tuple[int, int, int], geometry: Geometry) -> Placement | None:
    """Where an image of this (height, width, channels) goes; None if the graph cannot handle it."""
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
    """Maps encoded images [N], the indices of those to decode int32 [M], and for each of these its scaled size and the
    upper left corner of the part to keep, int32 [M, 2] each -> float32 [M, *input_shape], and
    the last pixel of each image as it was decoded, uint8 [M, channels].
    """

    def pixels(contents: tf.Tensor, at: tf.Tensor, size: tf.Tensor, corner: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.io.decode_jpeg(contents[at], input_shape[2], dct_method=JPEG_METHODS[jpeg])

        def resized() -> tf.Tensor:
            return tf.cast(tf.image.resize(image[None], size, interpolation, antialias=antialias)[0], tf.float32)

        unchanged = tf.reduce_all(tf.shape(image)[:2] == size)
        scaled = tf.cond(unchanged, lambda: tf.cast(image, tf.float32), resized)
        return tf.slice(scaled, tf.concat([corner, [0]], 0), input_shape), image[-1, -1]

    def all_pixels(contents: tf.Tensor, *placed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        results = tf.TensorSpec(input_shape, tf.float32), tf.TensorSpec(input_shape[2:], tf.uint8)
        return _each(lambda placement: pixels(contents, *placement), placed, results)

    number, pair = tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, 2], tf.int32)
    return _traced(all_pixels, tf.TensorSpec([None], tf.string), number, pair, pair)


def _each(function: Callable, elements, result: tf.TensorSpec | tuple[tf.TensorSpec, ...]):
    """Sequential: the other cores have their own images, and memory holds only one image in its original size."""
    return tf.map_fn(function, elements, parallel_iterations=1, fn_output_signature=result)


def _traced(function: Callable, *signature: tf.TensorSpec) -> tf.types.experimental.ConcreteFunction:
    def on_cpu(*arguments: tf.Tensor):
        with tf.device("/CPU:0"):
            return function(*arguments)

    return tf.function(on_cpu, input_signature=signature, autograph=False).get_concrete_function()
