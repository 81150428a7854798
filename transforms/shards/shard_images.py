"""From a shard of any kind to the pixels of its images: the one place where the kinds part."""

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import replace

import numpy as np

from odin_beam.transforms import errors
from odin_beam.transforms.images import decoding, example, resize
from odin_beam.transforms.images.example import ImageRecord
from odin_beam.transforms.images.geometry import Geometry
from odin_beam.transforms.images.jpeg_batches import decode_jpegs
from odin_beam.transforms.shards import framing, records
from odin_beam.transforms.shards.image_list import read_image, read_images
from odin_beam.transforms.shards.noise import noise_image
from odin_beam.transforms.shards.records import Record
from odin_beam.transforms.shards.shard import FeatureNames, ImageList, Noise, Shard, Surrogate, TFRecords
from odin_beam.transforms.shards.surrogates import altered, with_partners
from odin_beam.transforms.storage import listing

_SAMPLED_FROM = 16


def read_records(shard: Shard, folder: str, fetchers: Executor) -> Iterator[Record]:
    """The records of a shard, in order; what is wrong with one comes as its `problem`.

    Args:
      shard: of any kind.
      folder: where the run's lists of images are.
      fetchers: threads to fetch loose images with.

    Raises:
      errors.StorageError: the storage would not give the bytes, or they are not those that were listed.
    """
    match shard.content:
        case TFRecords():
            check_unchanged(shard)
            yield from framing.read_file(shard.path)
            check_unchanged(shard)
        case ImageList():
            yield from read_images(shard.content, folder, fetchers)
        case Noise(_, first, count):
            yield from (Record(index, None, b"") for index in range(first, first + count))
        case Surrogate(kind, of):
            originals = read_records(replace(shard, content=of), folder, fetchers)
            yield from with_partners(originals) if kind == "averages" else originals


def sample_records(shard: Shard, folder: str, fetchers: Executor, count: int) -> list[Record]:
    """A few records of a shard, as far apart as is cheap, since images often stand in the order of their classes.

    Of a list they lie evenly over all of it, of a TFRecord file over its beginning: `_SAMPLED_FROM` times as many
    records are read, or `limits.MAX_BATCH_BYTES`.

    Args:
      shard: of any kind.
      folder: where the run's lists of images are.
      fetchers: threads to fetch loose images with.
      count: how many, at most.

    Raises:
      errors.StorageError: as in `read_records`.
    """
    if isinstance(shard.content, ImageList):
        step = max(1, shard.content.count // count)
        return list(itertools.islice(read_images(shard.content, folder, fetchers, step), count))
    read = next(records.batches(read_records(shard, folder, fetchers), count * _SAMPLED_FROM), [])
    return read[:: max(1, len(read) // count)][:count]


def read_back(shard: Shard, folder: str, index: int, offset: int | None) -> Record | None:
    """One record of a shard again, by the key that its row of scores has; None where it is no longer there.

    Args:
      shard: that holds the index.
      folder: where the run's lists of images are.
      index: as in the scores.
      offset: as in the scores.

    Raises:
      errors.StorageError: the storage would not give the bytes.
    """
    match shard.content:
        case TFRecords():
            check_unchanged(shard)
            return framing.read_one(shard.path, index, offset)
        case ImageList():
            return read_image(shard.content, folder, index)
        case Noise():
            return Record(index, None, b"")


def check_unchanged(shard: Shard) -> None:
    """A shard that is replaced while it waits or is read must not be committed under the old file's fingerprint.

    Raises:
      errors.StorageError: the file has changed since it was listed.
    """
    now = listing.stat_file(shard.path)
    if now is None:
        raise errors.StorageError(f"cannot read {shard.path}: the file has gone since it was listed")
    if (now.size, now.modified) != (shard.size, shard.modified):
        raise errors.StorageError(f"{shard.path} has changed since it was listed: run again")


def default_id(record: Record, shard: Shard) -> str:
    """How an image is called whose Example has no id: as the list says, else `<base name>__<index>`."""
    if record.id is not None:
        return record.id
    content = shard.content.of if isinstance(shard.content, Surrogate) else shard.content
    name = content.distribution if isinstance(content, Noise) else os.path.basename(shard.path)
    return f"{name}__{record.index}"


def parse_record(record: Record, shard: Shard, names: FeatureNames) -> ImageRecord:
    """What a good record of the shard says: its encoded image (none for noise), label and id.

    Raises:
      errors.ImageError: `not_an_example` or `no_image`.
    """
    match shard.content:
        case TFRecords(features):
            return example.parse_example(record.payload, features or names)
        case ImageList():
            return ImageRecord(record.payload, record.label, record.id, None)
        case Noise():
            return ImageRecord(b"", None, None, None)
        case Surrogate(_, of):
            # What the label says is no longer on the image.
            return replace(parse_record(record, replace(shard, content=of), names), label=None)


def decode_at_once(
    parsed: Sequence[ImageRecord | None], shard: Shard, geometry: Geometry, out: np.ndarray
) -> list[bool]:
    """Decodes what can be decoded for many records at once sooner than for one after the other.

    Args:
      parsed: what `parse_record` says of N records of the shard; None for the bad ones.
      shard: of any kind.
      geometry: what to do with images of another size.
      out: float32 [N, height, width, channels] to put each into its place of.

    Returns:
      Whether each was decoded; the others are left to `record_pixels`.
    """
    match shard.content:
        case TFRecords() | ImageList():
            return decode_jpegs([b"" if one is None else one.image for one in parsed], geometry, out)
        case Noise() | Surrogate():
            return [False] * len(parsed)


def record_pixels(
    record: Record,
    parsed: ImageRecord,
    shard: Shard,
    input_shape: tuple[int, int, int],
    geometry: Geometry,
    names: FeatureNames,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """A record's image as the classifier sees it.

    Args:
      record: a good one of the shard.
      parsed: what `parse_record` says of it.
      shard: of any kind.
      input_shape: (height, width, channels) of the classifier's input.
      geometry: what to do with images of another size.
      names: of the features, where an image is made of two records.
      out: array to put it into; None for one of its own.

    Returns:
      float32 array of `input_shape`, in [0, 1].

    Raises:
      errors.ImageError: `undecodable`, `too_many_pixels` or `wrong_size`.
    """
    match shard.content:
        case TFRecords():
            return decoding.pixels(parsed, input_shape, geometry, out)
        case ImageList():
            image = decoding.decode(parsed.image, input_shape[2], geometry.jpeg)
            return resize.fit(image, input_shape[:2], geometry, out)
        case Noise(distribution):
            return _put(noise_image(distribution, record.index, input_shape), out)
        case Surrogate(kind, of):
            original, partner = replace(shard, content=of), None
            if record.partner is not None:
                other = parse_record(record.partner, original, names)
                partner = record_pixels(record.partner, other, original, input_shape, geometry, names)
            own = record_pixels(record, parsed, original, input_shape, geometry, names)
            return _put(altered(kind, own, shard.path, record.index, partner), out)


def _put(pixels: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    if out is None:
        return pixels
    out[...] = pixels
    return out
