"""The protocol of a shard's content: what reading, decoding and reporting ask of every kind.

A kind is a frozen dataclass in a file of this folder. Its class name and fields enter the fingerprint, and the manifest
as JSON. Everything that decodes imports TensorFlow when it is called, so that a launch can list shards without it.
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
        """The records, in order; what is wrong with one comes as its `problem`.

        Args:
          shard: that has this content.
          folder: where the run's lists of images are.
          fetchers: threads to fetch loose images with.

        Raises:
          errors.StorageError: the storage would not give the bytes, or they are not those that were listed.
        """

    @abc.abstractmethod
    def read_back(self, shard: "Shard", folder: str, index: int, offset: int | None) -> Record | None:
        """One record again, by the key that its row of scores has; None where it is no longer there.

        Raises:
          errors.StorageError: the storage would not give the bytes.
        """

    @abc.abstractmethod
    def parse(self, record: Record, names: "FeatureNames") -> "ImageRecord":
        """What a good record says: its encoded image, label and id.

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
        """A record's image as the classifier sees it.

        Args:
          record: a good one.
          parsed: what `parse` says of it.
          shard: that has this content.
          input_shape: (height, width, channels) of the classifier's input.
          geometry: what to do with images of another size.
          names: of the features, where an image is made of two records.
          out: array to put it into; None for a new one.

        Returns:
          float32 array of `input_shape`, in [0, 1].

        Raises:
          errors.ImageError: `undecodable`, `too_many_pixels` or `wrong_size`.
        """

    @abc.abstractmethod
    def name(self, shard: "Shard") -> str:
        """What the default ids of its images begin with."""

    @abc.abstractmethod
    def expected_images(self, shard: "Shard", mean_bytes: float) -> int:
        """How many images to expect, for the progress.

        Args:
          shard: that has this content.
          mean_bytes: mean size of the records looked at; 0 where none could be read.
        """

    def sample(self, shard: "Shard", folder: str, fetchers: Executor, count: int) -> list[Record]:
        """A few records, as far apart as is cheap, since images often stand in the order of their classes.

        Unless a kind can do better, they lie evenly over the beginning: `_SAMPLED_FROM` times as many records are read,
        or `limits.MAX_BATCH_BYTES`. Arguments and errors as in `read`.
        """
        read = next(records.batches(self.read(shard, folder, fetchers), count * _SAMPLED_FROM), [])
        return read[:: max(1, len(read) // count)][:count]

    def first_index(self) -> int:
        """Index of the first image."""
        return 0

    def list_path(self) -> str | None:
        """Path of the list of images that it is a part of, relative to the run's folder; None without."""
        return None

    def is_derived(self) -> bool:
        """Whether its images are made from those of another shard of the run, with that shard's path and name."""
        return False

    def holds(self, index: int) -> bool:
        """Whether the image of that index can be in this shard, of several with the same path."""
        return True

    def decode_many(self, parsed: Sequence["ImageRecord | None"], geometry: Geometry, out: np.ndarray) -> list[bool]:
        """Decodes what can be decoded faster for many records at once.

        Args:
          parsed: what `parse` says of N records; None for the bad ones.
          geometry: what to do with images of another size.
          out: float32 [N, height, width, channels]; each decoded image goes to its place.

        Returns:
          Whether each was decoded; the others are left to `pixels`.
        """
        return [False] * len(parsed)

    def usage_problem(self, record: Record, shard: "Shard", names: "FeatureNames") -> str | None:
        """What about a command line a record without image speaks against.

        Returns:
          None for an image; an empty text for mere damage, which the run deals with.
        """
        return "" if record.problem else None


@functools.cache
def kinds() -> dict[str, type[Content]]:
    """Every kind by its class name, as the manifest has it: the files of this folder define them."""
    import importlib
    import pkgutil

    from odin_beam.transforms.shards import contents

    for module in pkgutil.iter_modules(contents.__path__):
        importlib.import_module(f"{contents.__name__}.{module.name}")
    return {kind.__name__: kind for kind in Content.__subclasses__()}


def content_to_json(content: Content) -> dict[str, Any]:
    """A content as the manifest has it: its kind, and its fields."""
    fields = {field.name: getattr(content, field.name) for field in dataclasses.fields(content)}
    values = {k: content_to_json(v) if isinstance(v, Content) else to_json(v) for k, v in fields.items()}
    return {"content": type(content).__name__, **values}


def content_from_json(value: dict[str, Any], where: str) -> Content:
    """The content again.

    Raises:
      OtherVersion: it is of an unknown kind, or does not fit its kind.
    """
    value = {k: content_from_json(v, where) if isinstance(v, dict) and "content" in v else v for k, v in value.items()}
    if (kind := kinds().get(value.pop("content", None))) is None:
        raise OtherVersion(f"{where} was written by another version of odin-beam: a shard is of an unknown kind")
    return from_json(kind, value, where)


def default_id(record: Record, shard: "Shard") -> str:
    """What an image is called whose record has no id: as the list says, else `<name>__<index>`."""
    return record.id if record.id is not None else f"{shard.content.name(shard)}__{record.index}"


def put(pixels: np.ndarray, out: np.ndarray | None) -> np.ndarray:
    """The pixels, copied into `out` where there is one."""
    if out is None:
        return pixels
    out[...] = pixels
    return out
