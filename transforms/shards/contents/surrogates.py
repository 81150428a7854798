"""Surrogates: out-of-distribution images made from the user's own, for when none are available.

They share colours and textures with the images that the classifier knows, but not its objects. How well a detector
separates them from the originals only hints at how it does on real out-of-distribution images.
"""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from odin_beam.transforms.shards.contents.content import Content, put
from odin_beam.transforms.shards.records import Record
from odin_beam.transforms.shards.shard import FeatureNames, Shard

if TYPE_CHECKING:
    from odin_beam.transforms.images.example import ImageRecord

SURROGATE_TYPES = ("patches", "noise", "averages")
# Patches along each side: coarse enough to keep textures, fine enough to break every object.
PATCHES = 4
# Standard deviation of the pixel noise, in [0, 1] units.
NOISE = 0.2


@dataclass(frozen=True)
class Surrogate(Content):
    """Images of another shard, altered until they are out-of-distribution.

    Attributes:
      kind: how they are altered, one of `SURROGATE_TYPES`.
      of: what the images are before they are altered.
    """

    kind: str
    of: Content

    def read(self, shard: Shard, folder: str, fetchers: Executor) -> Iterator[Record]:
        originals = self.of.read(shard, folder, fetchers)
        return with_partners(originals) if self.kind == "averages" else originals

    def read_back(self, shard: Shard, folder: str, index: int, offset: int | None) -> Record | None:
        return self.of.read_back(shard, folder, index, offset)

    def parse(self, record: Record, names: FeatureNames) -> "ImageRecord":
        # The labelled object is no longer in the image.
        return replace(self.of.parse(record, names), label=None)

    def pixels(self, record, parsed, shard, input_shape, geometry, names, out=None) -> np.ndarray:
        partner = None
        if record.partner is not None:
            other = self.of.parse(record.partner, names)
            partner = self.of.pixels(record.partner, other, shard, input_shape, geometry, names)
        original = self.of.pixels(record, parsed, shard, input_shape, geometry, names)
        return put(altered(self.kind, original, shard.path, record.index, partner), out)

    def name(self, shard: Shard) -> str:
        return self.of.name(shard)

    def expected_images(self, shard: Shard, mean_bytes: float) -> int:
        return self.of.expected_images(shard, mean_bytes)

    def first_index(self) -> int:
        return self.of.first_index()

    def list_path(self) -> str | None:
        return self.of.list_path()

    def is_derived(self) -> bool:
        return True

    def holds(self, index: int) -> bool:
        return self.of.holds(index)


def altered(kind: str, pixels: np.ndarray, path: str, index: int, partner: np.ndarray | None = None) -> np.ndarray:
    """One surrogate; the same arguments give the same image on any worker.

    Args:
      kind: one of `SURROGATE_TYPES`. `patches`: cut into 4 x 4 patches, which are shuffled; a remainder at the edge
        stays. `noise`: normal noise of standard deviation 0.2 on every pixel, clipped. `averages`: the mean of two
        images.
      pixels: float32 [H, W, C] in [0, 1].
      path: of the image's shard; path and index seed the random generator.
      index: of the image in its shard.
      partner: the other image, for `averages`.

    Returns:
      float32 [H, W, C] in [0, 1].
    """
    seed = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "little")
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
    if kind == "patches":
        return _shuffled(pixels, generator)
    if kind == "noise":
        return np.clip(pixels + np.float32(NOISE) * generator.standard_normal(pixels.shape, np.float32), 0, 1)
    return (pixels + partner) / 2


def _shuffled(pixels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    height, width, channels = pixels.shape
    rows, columns = min(PATCHES, height), min(PATCHES, width)
    h, w = height // rows, width // columns
    whole = pixels[: rows * h, : columns * w].reshape(rows, h, columns, w, channels).swapaxes(1, 2)
    patches = generator.permutation(whole.reshape(rows * columns, h, w, channels))
    result = pixels.copy()
    back = patches.reshape(rows, columns, h, w, channels).swapaxes(1, 2)
    result[: rows * h, : columns * w] = back.reshape(rows * h, columns * w, channels)
    return result


def with_partners(records: Iterable[Record]) -> Iterator[Record]:
    """Gives each good record the next good record as its partner, and the last one the record before it.

    Bad records pass through. A good record that is the only one in its shard becomes a bad record.
    """
    waiting = previous = None
    for record in records:
        if record.problem:
            yield record
            continue
        if waiting is not None:
            yield replace(waiting, partner=record)
        previous, waiting = waiting, record
    if previous is not None:
        yield replace(waiting, partner=previous)
    elif waiting is not None:
        yield replace(waiting, payload=None, problem=("no_partner", "the only image of its shard: no other to average"))
