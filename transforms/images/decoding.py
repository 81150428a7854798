"""Turns encoded images and raw pixels into arrays.

The policy is the same for every format:

* PNG, JPEG, GIF, BMP and WebP (the first frame of animations) are recognised by their content, never by a file name.
* Alpha is dropped, not blended; palettes are resolved; CMYK becomes RGB; 16 bits become 8 by keeping the high byte.
* Colour becomes grey by ITU-R 601 luma (0.299 R + 0.587 G + 0.114 B); grey becomes colour by repetition.
* EXIF orientation is ignored, as in Keras' own loaders.
* JPEG is decoded with the accurate integer transform, as Pillow does, unless the geometry says `fast`, which is
  TensorFlow's default. The two differ by up to a few steps of 1/255, more than a usual epsilon.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from PIL import Image

from odin_beam.transforms import limits
from odin_beam.transforms.errors import ImageError
from odin_beam.transforms.images.example import ImageRecord
from odin_beam.transforms.images.formats import IN_WORDS, NAMES, format_of
from odin_beam.transforms.images.geometry import JPEG_METHODS, Geometry
from odin_beam.transforms.images.jpeg import JPEG_START, checked_jpeg, plain_jpeg, refuse_cut, seems_cut
from odin_beam.transforms.images.png import plain_png
from odin_beam.transforms.images.recognition import described, other_pixels
from odin_beam.transforms.images.resize import fit
from odin_beam.transforms.images.structure import check_structure

# Pillow's errors if it reads beyond the end of a file, in any format.
_PILLOWS_TRUNCATED = re.compile("image file is truncated|Truncated File Read")
# Pillow calls a JPEG with a second picture behind it MPO.
_JPEG_FORMATS = ("JPEG", "MPO")
_MODES = {1: "L", 3: "RGB"}
# Pillow's modes of grey images; 16 bits are "I;16" and the like.
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")


def pixels(
    record: ImageRecord, input_shape: tuple[int, int, int], geometry: Geometry, out: np.ndarray | None = None
) -> np.ndarray:
    """The image as the classifier receives it.

    Args:
      record: a parsed Example.
      input_shape: (height, width, channels) of the classifier's input; channels is 1 or 3.
      geometry: how to handle images of another size.
      out: array to write to; None to allocate one.

    Returns:
      float32 array of `input_shape`, in [0, 1].

    Raises:
      ImageError: `undecodable`, `truncated`, `too_complex`, `too_many_pixels` or `wrong_size`.
    """
    height, width, channels = input_shape
    shape = record.raw_shape or input_shape
    if is_raw(record.image, shape):
        image = to_channels(np.frombuffer(record.image, np.uint8).reshape(shape), channels)
    else:
        image = _decode_or_name(record.image, shape, channels, geometry.jpeg)
    return fit(image, (height, width), geometry, out)


def _decode_or_name(data: bytes, shape: tuple[int, int, int], channels: int, jpeg: str) -> np.ndarray:
    """`decode`, whose error says if the bytes are raw pixels of this shape, but of another type."""
    try:
        return decode(data, channels, jpeg)
    except ImageError as e:
        is_unknown = isinstance(e.__cause__, Image.UnidentifiedImageError) and not described(data)
        if is_unknown and (words := other_pixels(len(data), shape)):
            raise ImageError(e.reason, f"{e.detail}, but {words}") from e
        raise


def is_raw(data: bytes, shape: tuple[int, int, int]) -> bool:
    """Whether the bytes are a uint8 tensor of this shape rather than an encoded image.

    The long signatures mark an encoded image whatever the length. BMP's two letters alone do not, since one raw image
    in 65,536 begins with them: the length decides, unless the header repeats it.
    """
    if min(shape) < 1 or shape[2] not in (1, 3, 4) or len(data) != shape[0] * shape[1] * shape[2]:
        return False
    if format_of(data):
        return False
    return not (data.startswith(b"BM") and int.from_bytes(data[2:6], "little") == len(data))


def image_channels(record: ImageRecord, input_shape: tuple[int, int, int]) -> int | None:
    """How many channels an image has itself, alpha not counted: 1 if it is grey, 3 if it is in colour.

    Reads only the header of an encoded image; a palette is grey if all of its entries are.

    Args:
      record: a parsed Example.
      input_shape: of the classifier's input, for raw pixels that come without a shape.

    Returns:
      1 or 3; None for what is not an image.
    """
    shape = record.raw_shape or input_shape
    if is_raw(record.image, shape):
        return 1 if shape[2] == 1 else 3
    try:
        with _opened(record.image) as image:
            if image.mode in ("P", "PA"):
                entries = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
                return 3 if np.ptp(entries, axis=1).any() else 1
            return 1 if image.mode in _GREY_MODES or image.mode.startswith("I;") else 3
    except ImageError:
        return None


def decode(data: bytes, channels: int, jpeg: str = "accurate") -> np.ndarray:
    """Decodes an image under this module's policy.

    Args:
      data: PNG, JPEG, GIF, BMP or WebP.
      channels: 1 or 3.
      jpeg: see `Geometry`; CMYK JPEG, and JPEG to be converted between grey and colour, is always `accurate`.

    Returns:
      uint8 array [height, width, channels], channels 1 or 3.

    Raises:
      ImageError: `undecodable`, `truncated`, `too_complex`, or `too_many_pixels` above `limits.MAX_PIXELS`.
    """
    if (plain := plain_png(data)) is not None:
        array = np.asarray(plain if plain.mode == _MODES[channels] else plain.convert(_MODES[channels]))
        return array[..., None] if channels == 1 else array
    is_suspect = False
    if data.startswith(JPEG_START):
        is_suspect = (ended := checked_jpeg(data)) is not data
        data = ended
        if (array := plain_jpeg(data, channels, JPEG_METHODS[jpeg], is_suspect)) is not None:
            return array
    with _opened(data) as image:
        if image.format == "JPEG" and image.mode == _MODES[channels]:
            return np.asarray(tf.io.decode_jpeg(data, channels, dct_method=JPEG_METHODS[jpeg]))
        if image.format in _JPEG_FORMATS:
            _refuse_cut(data, image, is_suspect)
        if image.mode.startswith("I"):
            return to_channels((np.asarray(image) >> 8).astype(np.uint8)[..., None], channels)
        array = np.asarray(image.convert(_MODES[channels]))
    return array[..., None] if channels == 1 else array


def _refuse_cut(data: bytes, image: Image.Image, is_suspect: bool) -> None:
    def decoded(contents: bytes) -> np.ndarray:
        with Image.open(io.BytesIO(contents), formats=NAMES) as opened:
            return np.asarray(opened)

    pixels = np.asarray(image)
    if is_suspect or seems_cut(np.atleast_1d(pixels[-1, -1]).tolist()):
        refuse_cut(data, pixels, decoded)


def check_header(data: bytes) -> None:
    """Checks by the header that the bytes are an image that `decode` can attempt.

    Decodes only a JPEG without an end marker, to know whether that is all that is missing.

    Raises:
      ImageError: `not_an_image`, `too_complex`, `truncated`, or `too_many_pixels` above `limits.MAX_PIXELS`.
    """
    try:
        with _opened(data):
            pass
        if data.startswith(JPEG_START) and checked_jpeg(data) is not data:
            decode(data, 3)
    except ImageError as e:
        if isinstance(e.__cause__, Image.UnidentifiedImageError):
            raise ImageError("not_an_image", f"{len(data)} bytes that are not a readable {IN_WORDS}{_but(data)}") from e
        raise


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """An encoded image with its header read; any later error while using it becomes an `ImageError`."""
    check_structure(data)
    try:
        with Image.open(io.BytesIO(data), formats=NAMES) as image:
            width, height = image.size
            if width * height > limits.MAX_PIXELS:
                raise ImageError("too_many_pixels", f"{width} x {height}; the limit is {limits.MAX_PIXELS} pixels")
            yield image
    except ImageError:
        raise
    except Image.DecompressionBombError as e:
        raise ImageError("too_many_pixels", f"more than twice the limit of {limits.MAX_PIXELS} pixels") from e
    except Exception as e:
        # A decoder may raise nearly anything on hostile bytes; no error may end the shard.
        reason = "truncated" if _PILLOWS_TRUNCATED.match(str(e)) else "undecodable"
        raise ImageError(reason, _undecodable(data, e)) from e


def _undecodable(data: bytes, error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"{len(data)} bytes that are not {IN_WORDS}, nor raw pixels of the expected shape{_but(data)}"
    # TensorFlow's errors begin with the node that raised them, in double braces.
    text = re.sub(r"\{\{.*?\}\}", "", str(error))
    return " ".join(text.split())[:200] or type(error).__name__


def _but(data: bytes) -> str:
    words = described(data)
    return f", but {words}" if words else ""


def to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """uint8 [h, w, 1, 3 or 4] -> [h, w, channels], with the same policy as encoded images."""
    image = image[..., :3]
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


def ignore_pillow_warnings() -> None:
    """Silences, for the whole process, Pillow's warnings about images that are handled here."""
    # Images above the limit are rejected.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    # Alpha is dropped deliberately.
    warnings.filterwarnings("ignore", message="Palette images with Transparency", category=UserWarning)
