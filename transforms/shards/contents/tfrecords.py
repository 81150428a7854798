"""Shards that are TFRecord files of `tf.train.Example`."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from odin_beam.transforms.errors import ImageError, StorageError
from odin_beam.transforms.images.formats import IN_WORDS, format_of
from odin_beam.transforms.images.geometry import Geometry
from odin_beam.transforms.images.recognition import recognised
from odin_beam.transforms.shards import framing
from odin_beam.transforms.shards.contents.content import Content
from odin_beam.transforms.shards.records import Record
from odin_beam.transforms.shards.shard import FeatureNames, Shard
from odin_beam.transforms.storage import listing

if TYPE_CHECKING:
    from odin_beam.transforms.images.example import ImageRecord


@dataclass(frozen=True)
class TFRecords(Content):
    """A TFRecord file of `tf.train.Example`, gzip if its name ends in `.gz`.

    Attributes:
      features: their names, if the source itself fixes them; None to use those of the settings.
    """

    features: FeatureNames | None = None

    def read(self, shard: Shard, folder: str, fetchers: Executor) -> Iterator[Record]:
        check_unchanged(shard)
        yield from framing.read_file(shard.path)
        check_unchanged(shard)

    def read_back(self, shard: Shard, folder: str, index: int, offset: int | None) -> Record | None:
        check_unchanged(shard)
        return framing.read_one(shard.path, index, offset)

    def parse(self, record: Record, names: FeatureNames) -> "ImageRecord":
        from odin_beam.transforms.images.example import parse_example

        return parse_example(record.payload, self.features or names)

    def decode_many(self, parsed: Sequence["ImageRecord | None"], geometry: Geometry, out: np.ndarray) -> list[bool]:
        from odin_beam.transforms.images.jpeg_batches import decode_jpegs

        return decode_jpegs([b"" if record is None else record.image for record in parsed], geometry, out)

    def pixels(self, record, parsed, shard, input_shape, geometry, names, out=None) -> np.ndarray:
        from odin_beam.transforms.images import decoding

        return decoding.pixels(parsed, input_shape, geometry, out)

    def name(self, shard: Shard) -> str:
        return os.path.basename(shard.path)

    def uri(self, shard: Shard, record: Record, parsed: "ImageRecord | None") -> str | None:
        return parsed.uri if parsed is not None and parsed.uri else f"{shard.path}#{record.index}"

    def expected_images(self, shard: Shard, mean_bytes: float) -> int:
        return max(1, round(shard.size / mean_bytes)) if mean_bytes else 1

    def usage_problem(self, record: Record, shard: Shard, names: FeatureNames) -> str | None:
        if record.problem:
            return ""
        try:
            parsed = self.parse(record, names)
        except ImageError as e:
            if e.reason == "not_an_example" and recognised(record.payload):
                return f"{shard.path}: {e.detail}"
            return f"{shard.path}: {e.detail}; name it with `image_feature`" if e.reason == "no_image" else ""
        if not format_of(parsed.image) and (words := recognised(parsed.image)):
            feature = (self.features or names).image
            return f"{shard.path}: feature {feature!r} is not {IN_WORDS} nor raw pixels, but {words}"
        return None

    def missing_label(self, record: Record, names: FeatureNames) -> str | None:
        from odin_beam.transforms.images.example import missing_label

        return None if record.payload is None else missing_label(record.payload, self.features or names)


def check_unchanged(shard: Shard) -> None:
    """Guards against committing a shard that was replaced while it waited or was read, under its old fingerprint.

    Raises:
      errors.StorageError: the file has changed since it was listed.
    """
    current = listing.stat_file(shard.path)
    if current is None:
        raise StorageError(f"cannot read {shard.path}: the file was removed after it was listed")
    if (current.size, current.modified) != (shard.size, shard.modified):
        raise StorageError(f"{shard.path} has changed since it was listed: run again")
