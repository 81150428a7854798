"""The images behind rows of scores, as they were before the classifier's size and range were made of them."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.images.decoding import decode, is_raw
from odin_beam.transforms.images.example import ImageRecord
from odin_beam.transforms.images.formats import FORMATS, format_of
from odin_beam.transforms.shards.read_back import read_back
from odin_beam.transforms.shards.shard import FeatureNames, Shard

_EXTENSIONS = {row.name: row.extensions[0] for row in FORMATS}
_MAX_NAME = 80


def original(row: Mapping[str, Any], shards: Sequence[Shard], folder: str, names: FeatureNames) -> ImageRecord:
    """The encoded image of a row.

    Args:
      row: with `shard`, `index` and `offset`.
      shards: of the row's source.
      folder: of the run.
      names: of the features.

    Raises:
      ImageError: the record contains no image.
      StorageError: the image is no longer there, cannot be read, or never was in a file.
    """
    shard, record = read_back(row, shards, folder)
    parsed = shard.content.parse(record, names)
    if not parsed.image:
        raise StorageError(f"{row['id']} is noise, which no file contains")
    return parsed


def original_pixels(image: ImageRecord) -> np.ndarray:
    """uint8 [H, W, 1 or 3], decoded as for the classifier but for its size.

    Raises:
      ImageError: it cannot be decoded.
    """
    if _is_raw(image):
        return np.frombuffer(image.image, np.uint8).reshape(image.raw_shape)[..., :3]
    return decode(image.image, 3)


def file_content(image: ImageRecord) -> tuple[str, bytes]:
    """(extension, bytes) of a file with that image: its own bytes, but of raw pixels a PNG."""
    if not _is_raw(image):
        # Only BMP's signature does not decide by itself.
        return _EXTENSIONS[format_of(image.image) or "BMP"], image.image
    pixels, buffer = original_pixels(image), io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return ".png", buffer.getvalue()


def _is_raw(image: ImageRecord) -> bool:
    return image.raw_shape is not None and is_raw(image.image, image.raw_shape)


def file_name(place: int, of: int, row: Mapping[str, Any], extension: str, with_score: bool) -> str:
    """Name of a copy: it sorts by place, and says score and id, without characters that a file system minds.

    Args:
      place: from 1.
      of: number of rows, which gives the number of digits.
      row: with `id` and `score`.
      extension: with its point.
      with_score: whether it says the score, which would sway a person who labels.
    """
    base = re.sub(r"[^A-Za-z0-9_.-]+", "_", row["id"].rpartition("/")[2].removesuffix(extension)).strip("._")
    score = f"_{row['score']:.6g}" if with_score else ""
    return f"{place:0{len(str(of))}d}{score}_{base[-_MAX_NAME:] or 'image'}{extension}"
