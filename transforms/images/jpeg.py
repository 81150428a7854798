"""One JPEG image, decoded by TensorFlow, and whether all of its data are there.

A decoder takes a JPEG that ends early for whole as long as an end marker follows: what is missing becomes grey, with
every channel at 128. So an image whose last pixel is grey, or that had no end marker, is decoded a second time
with arbitrary bytes behind its data. They become pixels if data are missing; otherwise they are ignored. Not noticed is
a file with an end marker that lacks only a part of its last block (of up to 16 x 16 pixels) or, if progressive, of its
last scan, which refines the whole image.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from odin_beam.transforms import limits
from odin_beam.transforms.errors import ImageError
from odin_beam.transforms.images.jpeg_structure import end_of_scan, jpeg_structure

JPEG_START = b"\xff\xd8\xff"
_END = b"\xff\xd9"
# Without a marker; the decoder itself fills up with zeros, so this begins with ones.
_ARBITRARY = b"\xfe" + bytes((37 * i * i + 91 * i) % 251 for i in range(511))


def checked_jpeg(data: bytes) -> bytes:
    """The bytes of a JPEG, with an end marker if nothing but that is missing.

    Raises:
      ImageError: `too_complex`, or `truncated` if the file ends before its image data or between two of its scans.
    """
    structure = jpeg_structure(data)
    if structure.is_single_scan:
        return data if data.endswith(_END) or end_of_scan(data) != len(data) else data + _END
    if structure.has_frame and not structure.is_complete:
        raise ImageError("truncated", f"a JPEG of {len(data)} bytes that ends before the last of its scans")
    return data if structure.has_end or not structure.has_frame else data + _END


def seems_cut(last_pixel: Sequence[int] | np.ndarray) -> bool:
    """Whether an image may end early, judging by the pixel in its lower right corner, in the file's own channels."""
    return all(127 <= value <= 129 for value in last_pixel)


def refuse_cut(data: bytes, pixels: np.ndarray, decode: Callable[[bytes], np.ndarray]) -> None:
    """Decodes an image that seems cut again, to be certain.

    Args:
      data: from `checked_jpeg`.
      pixels: decoded from it.
      decode: how.

    Raises:
      ImageError: `truncated`.
    """
    structure = jpeg_structure(data)
    end = end_of_scan(data) if structure.is_single_scan else structure.data_end
    if end is not None and not np.array_equal(decode(data[:end] + _ARBITRARY + data[end:]), pixels):
        raise ImageError("truncated", f"a JPEG of {len(data)} bytes whose data end before its image does")


def plain_jpeg(data: bytes, channels: int, method: str, is_suspect: bool = False) -> np.ndarray | None:
    """The pixels of a JPEG with this number of channels; None if TensorFlow does not recognise it as such.

    With the accurate method they are bit-identical to Pillow's. TensorFlow comes first because it also accepts a few
    damaged files that Pillow refuses: the result must not depend on which batch `decode_jpegs` gave up.

    Args:
      data: from `checked_jpeg`.
      channels: 1 or 3.
      method: a value of `JPEG_METHODS`.
      is_suspect: whether to make certain that no data are missing, whatever the last pixel.

    Raises:
      ImageError: `truncated`.
    """

    def decoded(contents: bytes | tf.Tensor) -> np.ndarray:
        return np.asarray(tf.io.decode_jpeg(contents, channels, dct_method=method))

    contents = tf.constant(data)
    try:
        *size, actual_channels = tf.io.extract_jpeg_shape(contents).numpy().tolist()
        if actual_channels != channels or math.prod(size) > limits.MAX_PIXELS:
            return None
        pixels = decoded(contents)
        if is_suspect or seems_cut(pixels[-1, -1].tolist()):
            refuse_cut(data, pixels, decoded)
        return pixels
    except tf.errors.OpError:
        # The caller's fallback says what is wrong with it.
        return None
