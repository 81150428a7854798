"""The protocol of a shard's content: what reading, decoding and reporting need from every kind.

A kind is a frozen dataclass in a file of this folder. Its class name and fields are part of the fingerprint, and are
stored in the manifest as JSON. Code that decodes imports TensorFlow only when called, so that a launch can list shards
without it.
"""

import abc
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

import numpy as np

from odin_beam.transforms.images.geometry import Geometry
from odin_beam.transforms.settings_json import OtherVersion, from_json, to_json
from odin_beam.transforms.shards import records
from odin_beam.transforms.shards.records import Record

if TYPE_CHECKING:
    from odin_beam.transforms.images.example import ImageRecord
    from odin_beam.transforms.shards.shard import FeatureNames, Shard

_SAMPLED_FROM = 16


class Content(abc.ABC):
    """What a shard consists of."""

    @abc.abstractmethod
    def read(self, shard: "Shard", folder: str, fetchers: Executor) -> Iterator[Record]:
        """The records, in order; a damaged record carries a `problem`.

        Args:
          shard: the shard with this content.
          folder: where the run's lists of images are stored.
          fetchers: threads for fetching loose images.

        Raises:
          errors.StorageError: the storage did not return the bytes, or they have changed since they were listed.
        """

    @abc.abstractmethod
    def read_back(self, shard: "Shard", folder: str, index: int, offset: int | None) -> Record | None:
        """Reads one record again, by the key in its row of scores; None if it no longer exists.

        Raises:
          errors.StorageError: the storage did not return the bytes.
        """

    @abc.abstractmethod
    def parse(self, record: Record, names: "FeatureNames") -> "ImageRecord":
        """What a good record contains: its encoded image, label and id.

        Raises:
          errors.ImageError: `not_an_example` or `no_image`.
        """

    @abc.abstractmethod
    def pixels(
        self,
        record: Record,
        parsed: "ImageRecord",
        shard: "Shard",
        input_shape: tuple[int, int, int],
        geometry: Geometry,
        names: "FeatureNames",
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """A record's image as the classifier receives it.

        Args:
          record: a good record.
          parsed: the result of `parse` for it.
          shard: the shard with this content.
          input_shape: (height, width, channels) of the classifier's input.
          geometry: how to handle images of another size.
          names: of the features, if an image is made from two records.
          out: array to write to; None to allocate one.

        Returns:
          float32 array of `input_shape`, in [0, 1].

        Raises:
          errors.ImageError: `undecodable`, `too_many_pixels` or `wrong_size`.
        """

    @abc.abstractmethod
    def name(self, shard: "Shard") -> str:
        """The prefix of its images' default ids."""

    @abc.abstractmethod
    def uri(self, shard: "Shard", record: Record, parsed: "ImageRecord | None") -> str | None:
        """Where a record's image is, absolute; None for an image that no single file holds.

        Args:
          shard: the shard with this content.
          record: good or bad.
          parsed: the result of `parse` for it; None if it could not be parsed.
        """

    @abc.abstractmethod
    def expected_images(self, shard: "Shard", mean_bytes: float) -> int:
        """How many images to expect, for progress reports.

        Args:
          shard: the shard with this content.
          mean_bytes: mean size of the sampled records; 0 if none could be read.
        """

    def sample(self, shard: "Shard", folder: str, fetchers: Executor, count: int) -> list[Record]:
        """A few records, as far apart as is cheap, since images are often sorted by class.

        By default they are spread evenly over the beginning: `_SAMPLED_FROM` times as many records are read, or
        `limits.MAX_BATCH_BYTES`. Arguments and errors as in `read`.
        """
        read = next(records.batches(self.read(shard, folder, fetchers), count * _SAMPLED_FROM), [])
        return read[:: max(1, len(read) // count)][:count]

    def first_index(self) -> int:
        """Index of the first image."""
        return 0

    def list_path(self) -> str | None:
        """Path of the list of images that it is part of, relative to the run's folder; None without a list."""
        return None

    def is_derived(self) -> bool:
        """Whether its images are made from those of another shard of the run, whose path and name it shares."""
        return False

    def leaves_class_out(self) -> bool:
        """Whether the classifier is to lack, for each image, the class that it predicts."""
        return False

    def holds(self, index: int) -> bool:
        """Whether the image with that index can be in this shard, if several shards have the same path."""
        return True

    def decode_many(self, parsed: Sequence["ImageRecord | None"], geometry: Geometry, out: np.ndarray) -> list[bool]:
        """Decodes the records that are faster to decode many at once.

        Args:
          parsed: the results of `parse` for N records; None for bad records.
          geometry: how to handle images of another size.
          out: float32 [N, height, width, channels]; each decoded image is written to its place.

        Returns:
          Whether each record was decoded; the others are left to `pixels`.
        """
        return [False] * len(parsed)

    def usage_problem(self, record: Record, shard: "Shard", names: "FeatureNames") -> str | None:
        """The problem with the command line that a record without an image points to.

        Returns:
          None for an image; an empty text for mere damage, which the run handles.
        """
        return "" if record.problem else None

    def missing_label(self, record: Record, names: "FeatureNames") -> str | None:
        """Why a record has no label, by what is there in its place; None if it has one, or marks it as missing."""
        return None


@functools.cache
def kinds() -> dict[str, type[Content]]:
    """Every kind by its class name, as stored in the manifest; the files of this folder define them."""
    import importlib
    import pkgutil

    from odin_beam.transforms.shards import contents

    for module in pkgutil.iter_modules(contents.__path__):
        importlib.import_module(f"{contents.__name__}.{module.name}")
    return {kind.__name__: kind for kind in Content.__subclasses__()}


def content_to_json(content: Content) -> dict[str, Any]:
    """A content as stored in the manifest: its kind and its fields."""
    fields = {field.name: getattr(content, field.name) for field in dataclasses.fields(content)}
    values = {k: content_to_json(v) if isinstance(v, Content) else to_json(v) for k, v in fields.items()}
    return {"content": type(content).__name__, **values}


def content_from_json(value: dict[str, Any], where: str) -> Content:
    """The content that `content_to_json` wrote.

    Raises:
      OtherVersion: the kind is unknown, or the fields do not fit it.
    """
    value = {k: content_from_json(v, where) if isinstance(v, dict) and "content" in v else v for k, v in value.items()}
    if (kind := kinds().get(value.pop("content", None))) is None:
        raise OtherVersion(f"{where} was written by another version of odin-beam: a shard is of an unknown kind")
    return from_json(kind, value, where)


def default_id(record: Record, shard: "Shard") -> str:
    """The id of an image whose record has no id feature: the one in its list, else `<name>__<index>`."""
    return record.id if record.id is not None else f"{shard.content.name(shard)}__{record.index}"


def put(pixels: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """The pixels, copied into `out` if given."""
    if out is None:
        return pixels
    out[...] = pixels
    return out
