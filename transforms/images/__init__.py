"""From a `tf.train.Example` to the pixels that a classifier sees: parse, decode, fit, scale to [0, 1].

Policy, the same for every format:

* PNG, JPEG, GIF (first frame) and BMP are recognised by their content, never by a name.
* Alpha is dropped, not blended; palettes are resolved; CMYK becomes RGB; 16 bits become 8 by their high byte.
* Colour becomes grey by ITU-R 601 luma (0.299 R + 0.587 G + 0.114 B); grey becomes colour by repetition.
* EXIF orientation is ignored, as Keras' own loaders do.
* JPEG is decoded with the accurate integer transform, as Pillow does, unless the geometry says `fast`, which is what
  TensorFlow does by default. The two differ by up to a few steps of 1/255, more than a usual epsilon.
"""

import contextlib
import io
import math
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from PIL import Image, ImageFile

from odin_beam.transforms.shards.shard import FeatureNames

# The bound at which Pillow too speaks of a decompression bomb (268 MB as RGB); read from the header before decoding.
MAX_PIXELS = 89_478_485
_FORMATS = ("PNG", "JPEG", "GIF", "BMP")
_MODES = {1: "L", 3: "RGB"}

JPEG_START = b"\xff\xd8\xff"

# Signature, and the IHDR chunk: length and name, width, height, depth, colour type, three methods, checksum.
_PNG_START = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_PNG_HEADER = struct.Struct(">16sIIBBBBBI")
_PNG_CHUNK = struct.Struct(">I4s")
_PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"
_PNG_MODES = {0: "L", 2: "RGB", 6: "RGBA"}

RESIZE_MODES = ("stretch", "shorter_side", "none")
CROP_MODES = ("none", "center")
JPEG_METHODS = {"accurate": "INTEGER_ACCURATE", "fast": "INTEGER_FAST"}
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "area", "lanczos3", "lanczos5", "mitchellcubic", "gaussian")

# Images above the bound are rejected here, so Pillow's warning would only repeat it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Alpha is dropped on purpose.
warnings.filterwarnings("ignore", message="Palette images with Transparency", category=UserWarning)


class ImageError(Exception):
    """A record that gives no pixels. `reason` is a short code, `detail` a sentence for people."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Geometry:
    """How an image is decoded and, if it is of another size, brought to the classifier's.

    Attributes:
      image_size: (height, width) of the classifier's input; None where the classifier itself fixes it.
      resize: `stretch` to the size; `shorter_side` scales, keeping the aspect ratio, until the image covers the size;
        `none` leaves the pixels alone.
      crop: `center` cuts the middle out of an image that is larger than the size; `none` does not.
      interpolation: a method of `tf.image.resize`.
      antialias: whether shrinking averages (as Pillow does) or samples (as Keras' loaders do).
      jpeg: inverse transform of JPEG, `accurate` (as Pillow and `keras.utils.load_img`) or `fast` (as
        `tf.io.decode_jpeg` and `keras.utils.image_dataset_from_directory`).
    """

    image_size: tuple[int, int] | None = None
    resize: str = "stretch"
    crop: str = "none"
    interpolation: str = "bilinear"
    antialias: bool = False
    jpeg: str = "accurate"

    def __post_init__(self):
        for name, value, known in (
            ("resize", self.resize, RESIZE_MODES),
            ("crop", self.crop, CROP_MODES),
            ("interpolation", self.interpolation, INTERPOLATIONS),
            ("jpeg", self.jpeg, JPEG_METHODS),
        ):
            if value not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, not {value!r}")
        if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 1):
            raise ValueError(f"image_size needs two positive numbers, not {self.image_size}")
        if self.resize == "shorter_side" and self.crop == "none":
            raise ValueError("resize shorter_side leaves images of every aspect ratio: it needs crop center")


class Placement(NamedTuple):
    """How an image comes to the classifier's size.

    Attributes:
      size: (height, width) to scale it to.
      corner: (row, column) of the upper left corner of what is kept of that.
    """

    size: tuple[int, int]
    corner: tuple[int, int]


@dataclass(frozen=True)
class ImageRecord:
    """What the scorer needs of one Example.

    Attributes:
      image: encoded image, or raw uint8 pixels.
      label: class index, or None.
      id: the id feature, or None.
      raw_shape: (height, width, channels) from features of those names, for raw pixels; None when they are absent.
        Channels may be named `depth`, or left to the number of bytes.
    """

    image: bytes
    label: int | None
    id: str | None
    raw_shape: tuple[int, int, int] | None


def parse_example(payload: bytes, names: FeatureNames) -> ImageRecord:
    """Reads one serialized `tf.train.Example`.

    Raises:
      ImageError: `not_an_example`, or `no_image` with the features there are.
    """
    try:
        features = tf.train.Example.FromString(payload).features.feature
    except DecodeError as e:
        raise ImageError("not_an_example", f"{len(payload)} bytes that are no tf.train.Example") from e
    image = features[names.image].bytes_list.value if names.image in features else ()
    if len(image) != 1:
        raise ImageError("no_image", missing_image(names.image, features))
    raw_shape = _raw_shape(features, len(image[0]))
    return ImageRecord(image[0], _label(features, names.label), _id(features, names.id), raw_shape)


def missing_image(name: str, features) -> str:
    """Says what stands where the image was looked for."""
    there = ", ".join(sorted(features)[:20]) or "none"
    if name not in features:
        return f"no feature {name!r}; features there: {there}"
    kind = features[name].WhichOneof("kind")
    if kind is None:
        return f"feature {name!r} is empty; features there: {there}"
    count = len(getattr(features[name], kind).value)
    return f"feature {name!r} is {kind} of {count}, not one byte string; features there: {there}"


def _label(features, name: str) -> int | None:
    """A single number of at least 0; TensorFlow Datasets writes -1 where there is no label."""
    values = features[name].int64_list.value if name in features else ()
    return values[0] if len(values) == 1 and values[0] >= 0 else None


def _id(features, name: str) -> str | None:
    if name not in features:
        return None
    feature = features[name]
    if feature.bytes_list.value:
        return feature.bytes_list.value[0].decode("utf-8", errors="replace")
    return str(feature.int64_list.value[0]) if feature.int64_list.value else None


def _raw_shape(features, size: int) -> tuple[int, int, int] | None:
    height, width = _label(features, "height"), _label(features, "width")
    if height is None or width is None:
        return None
    channels = _label(features, "channels") or _label(features, "depth") or size // max(1, height * width)
    return height, width, channels


def pixels(
    record: ImageRecord, input_shape: tuple[int, int, int], geometry: Geometry, out: np.ndarray | None = None
) -> np.ndarray:
    """The image as the classifier sees it.

    Args:
      record: a parsed Example.
      input_shape: (height, width, channels) of the classifier's input; channels is 1 or 3.
      geometry: what to do with images of another size.
      out: array to put it into; None for one of its own.

    Returns:
      float32 array of `input_shape`, in [0, 1].

    Raises:
      ImageError: `undecodable`, `too_many_pixels` or `wrong_size`.
    """
    height, width, channels = input_shape
    shape = record.raw_shape or input_shape
    if is_raw(record.image, shape):
        image = _to_channels(np.frombuffer(record.image, np.uint8).reshape(shape), channels)
    else:
        image = decode(record.image, channels, geometry.jpeg)
    return fit(image, (height, width), geometry, out)


def is_raw(data: bytes, shape: tuple[int, int, int]) -> bool:
    """Whether the bytes are a uint8 tensor of this shape rather than an encoded image.

    The long signatures decide for an encoded image whatever the length. BMP's two letters alone do not, since one
    raw image in 65,536 begins with them: there the length decides, unless the header repeats it.
    """
    if min(shape) < 1 or shape[2] not in (1, 3, 4) or len(data) != shape[0] * shape[1] * shape[2]:
        return False
    if data.startswith((b"\x89PNG\r\n\x1a\n", JPEG_START, b"GIF87a", b"GIF89a")):
        return False
    return not (data.startswith(b"BM") and int.from_bytes(data[2:6], "little") == len(data))


def decode(data: bytes, channels: int, jpeg: str = "accurate") -> np.ndarray:
    """Decodes an image under this module's policy.

    Args:
      data: PNG, JPEG, GIF or BMP.
      channels: 1 or 3.
      jpeg: see `Geometry`; JPEG in CMYK or to be changed between grey and colour is always `accurate`.

    Returns:
      uint8 array [height, width, channels], channels 1 or 3.

    Raises:
      ImageError: `undecodable`, or `too_many_pixels` above `MAX_PIXELS`.
    """
    if (plain := _plain_png(data)) is not None:
        array = np.asarray(plain if plain.mode == _MODES[channels] else plain.convert(_MODES[channels]))
        return array[..., None] if channels == 1 else array
    if data.startswith(JPEG_START) and (array := _plain_jpeg(data, channels, JPEG_METHODS[jpeg])) is not None:
        return array
    with _opened(data) as image:
        if image.format == "JPEG" and image.mode == _MODES[channels]:
            return np.asarray(tf.io.decode_jpeg(data, channels, dct_method=JPEG_METHODS[jpeg]))
        if image.mode.startswith("I"):
            return _to_channels((np.asarray(image) >> 8).astype(np.uint8)[..., None], channels)
        array = np.asarray(image.convert(_MODES[channels]))
    return array[..., None] if channels == 1 else array


def _plain_png(data: bytes) -> Image.Image | None:
    """The image of a PNG in which nothing can be understood in two ways; None for any other bytes.

    That is: 8 bits of grey, RGB or RGBA, not interlaced; nothing but IHDR, one IDAT and IEND, all checksums right; and
    an IDAT which Pillow would hand to its decoder in one piece. The same decoder does here what it does there, without
    the parsing around it, which takes longer than the decoding of a small image.
    """
    if len(data) < _PNG_HEADER.size + _PNG_CHUNK.size or not data.startswith(_PNG_START):
        return None
    _, width, height, depth, colour, *methods, crc = _PNG_HEADER.unpack_from(data)
    start = _PNG_HEADER.size + _PNG_CHUNK.size
    length, kind = _PNG_CHUNK.unpack_from(data, _PNG_HEADER.size)
    mode, end = _PNG_MODES.get(colour), start + length
    if mode is None or depth != 8 or any(methods) or not 0 < width * height <= MAX_PIXELS:
        return None
    if kind != b"IDAT" or length > ImageFile.MAXBLOCK or data[end + 4 :] != _PNG_END:
        return None
    if zlib.crc32(data[12:29]) != crc or zlib.crc32(data[start - 4 : end]) != int.from_bytes(data[end : end + 4]):
        return None
    try:
        return Image.frombytes(mode, (width, height), data[start:end], "zip", mode, 0)
    except Exception:
        # What is wrong with it is for the caller's other way to say.
        return None


def _plain_jpeg(data: bytes, channels: int, method: str) -> np.ndarray | None:
    """The pixels of a JPEG of so many channels; None for what TensorFlow does not take for one.

    If accurate, they are Pillow's to the bit, in a third of its time.
    """
    contents = tf.constant(data)
    try:
        *size, there = tf.io.extract_jpeg_shape(contents).numpy().tolist()
        if there != channels or math.prod(size) > MAX_PIXELS:
            return None
        return np.asarray(tf.io.decode_jpeg(contents, channels, dct_method=method))
    except tf.errors.OpError:
        # What is wrong with it is for the caller's other way to say.
        return None


def check_header(data: bytes) -> None:
    """Sees from the header that this is an image which `decode` may take on; decodes nothing.

    Raises:
      ImageError: `not_an_image`, or `too_many_pixels` above `MAX_PIXELS`.
    """
    try:
        with _opened(data):
            pass
    except ImageError as e:
        if isinstance(e.__cause__, Image.UnidentifiedImageError):
            raise ImageError("not_an_image", f"{len(data)} bytes that are no readable PNG, JPEG, GIF or BMP") from e
        raise


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """An encoded image with its header read; whatever then goes wrong with it becomes an `ImageError`."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError("too_many_pixels", f"{width} x {height}; the limit is {MAX_PIXELS} pixels")
            yield image
    except ImageError:
        raise
    except Image.DecompressionBombError as e:
        raise ImageError("too_many_pixels", f"more than twice the limit of {MAX_PIXELS} pixels") from e
    except Exception as e:
        # A decoder fed with hostile bytes may raise nearly anything; none of it may end the shard.
        raise ImageError("undecodable", _undecodable(data, e)) from e


def _undecodable(data: bytes, error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return f"{len(data)} bytes that are no PNG, JPEG, GIF or BMP, nor raw pixels of the shape expected"
    # TensorFlow's errors begin with the node that raised them, in double braces.
    text = re.sub(r"\{\{.*?\}\}", "", str(error))
    return " ".join(text.split())[:200] or type(error).__name__


def _to_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """uint8 [h, w, 1, 3 or 4] -> [h, w, channels], by the same policy as encoded images."""
    image = image[..., :3]
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    return np.asarray(Image.fromarray(image).convert("L"))[..., None]


def fit(image: np.ndarray, size: tuple[int, int], geometry: Geometry, out: np.ndarray | None = None) -> np.ndarray:
    """Brings an image to the classifier's size and to [0, 1].

    Args:
      image: uint8 [h, w, channels].
      size: (height, width) wanted.
      geometry: how.
      out: float32 [height, width, channels] to put it into; None for an array of its own. Where images are large,
        asking the system for the memory of each takes longer than decoding.

    Returns:
      float32 [height, width, channels] in [0, 1].

    Raises:
      ImageError: as in `placement`.
    """
    scaled, (top, left) = placement(image.shape[:2], size, geometry)
    if scaled != image.shape[:2]:
        image = _resized(image, scaled, geometry)
    return to_unit(image[top : top + size[0], left : left + size[1]], geometry, out)


def placement(there: tuple[int, int], wanted: tuple[int, int], geometry: Geometry) -> Placement:
    """How an image comes to the size that is wanted.

    Args:
      there: (height, width) of the image.
      wanted: (height, width) of the classifier's input.
      geometry: how.

    Raises:
      ImageError: `wrong_size` where the geometry does not lead to the size, `too_many_pixels` where an image is so
        elongated that scaling its shorter side would blow it up.
    """
    scaled = there if there == wanted or geometry.resize == "none" else _scaled_size(there, wanted, geometry)
    top, left = (scaled[0] - wanted[0]) // 2, (scaled[1] - wanted[1]) // 2
    if scaled != wanted and (geometry.crop == "none" or min(top, left) < 0):
        raise ImageError(
            "wrong_size",
            f"{scaled[0]} x {scaled[1]}; the classifier takes {wanted[0]} x {wanted[1]}, see --resize and --crop",
        )
    return Placement(scaled, (top, left))


def to_unit(image: np.ndarray, geometry: Geometry, out: np.ndarray | None = None) -> np.ndarray:
    """An image of the right size in [0, 1].

    Args:
      image: uint8 or float32 [height, width, channels], of 0 to 255 or, by its interpolation, somewhat beyond.
      geometry: by which it was resized.
      out: float32 of that shape to put it into; None for an array of its own.

    Returns:
      float32 [height, width, channels] in [0, 1].
    """
    scaled = np.divide(image, np.float32(255), out=out)
    within = image.dtype == np.uint8 or (geometry.interpolation == "bilinear" and not geometry.antialias)
    return scaled if within else np.clip(scaled, 0, 1, out=scaled)


def _scaled_size(there: tuple[int, int], wanted: tuple[int, int], geometry: Geometry) -> tuple[int, int]:
    if geometry.resize == "stretch":
        return wanted
    scale = max(wanted[0] / there[0], wanted[1] / there[1])
    scaled = max(wanted[0], round(there[0] * scale)), max(wanted[1], round(there[1] * scale))
    if scaled[0] * scaled[1] > MAX_PIXELS:
        raise ImageError("too_many_pixels", f"{there[0]} x {there[1]} scaled to {scaled[0]} x {scaled[1]}")
    return scaled


def _resized(image: np.ndarray, size: tuple[int, int], geometry: Geometry) -> np.ndarray:
    with tf.device("/CPU:0"):
        # Of a batch of one: TensorFlow makes that of it anyway, and takes its time.
        resized = tf.image.resize(image[None], size, geometry.interpolation, antialias=geometry.antialias)
    return np.asarray(resized)[0].astype(np.float32, copy=False)
