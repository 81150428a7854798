"""Surrogates: out-of-distribution images made from the user's own, for when none are available.

They share colours and textures with the images that the classifier knows, but not its objects. How well a detector
separates them from the originals only hints at how it does on real out-of-distribution images, and each kind hints at
something else: so several are used together.
"""

import hashlib
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from odin_beam.transforms.shards.contents.content import Content, put
from odin_beam.transforms.shards.pairs import pairs
from odin_beam.transforms.shards.records import Record
from odin_beam.transforms.shards.shard import FeatureNames, Shard

if TYPE_CHECKING:
    from odin_beam.transforms.images.example import ImageRecord

SURROGATE_TYPES = ("patches", "averages", "halves", "leave_class_out")
# Those made of two images.
_OF_PAIRS = ("averages", "halves")
# Patches along each side: coarse enough to keep textures, fine enough to break every object.
PATCHES = 4


@dataclass(frozen=True)
class Surrogate(Content):
    """Images of another shard, altered until they are out-of-distribution.

    Attributes:
      kind: how they are altered, one of `SURROGATE_TYPES`.
      of: what the images are before they are altered.
      features: names of the features, for pairs of images of different classes.
    """

    kind: str
    of: Content
    features: FeatureNames = FeatureNames()

    def read(self, shard: Shard, folder: str, fetchers: Executor) -> Iterator[Record]:
        originals = self.of.read(shard, folder, fetchers)
        if self.kind not in _OF_PAIRS:
            return originals
        return pairs(originals, lambda record: self.of.parse(record, self.features), shard.path)

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

    def uri(self, shard: Shard, record: Record, parsed: "ImageRecord | None") -> str | None:
        return None if self.kind in _OF_PAIRS else self.of.uri(shard, record, parsed)

    def expected_images(self, shard: Shard, mean_bytes: float) -> int:
        return self.of.expected_images(shard, mean_bytes)

    def first_index(self) -> int:
        return self.of.first_index()

    def list_path(self) -> str | None:
        return self.of.list_path()

    def is_derived(self) -> bool:
        return True

    def leaves_class_out(self) -> bool:
        return self.kind == "leave_class_out"

    def holds(self, index: int) -> bool:
        return self.of.holds(index)


def altered(kind: str, pixels: np.ndarray, path: str, index: int, partner: np.ndarray | None = None) -> np.ndarray:
    """One surrogate; the same arguments give the same image on any worker.

    Args:
      kind: one of `SURROGATE_TYPES`. `patches`: cut into 4 x 4 patches, which are shuffled; a remainder at the edge
        stays. `averages`: the mean of two images. `halves`: the left half of one image beside the right half of
        another. `leave_class_out`: unaltered; it is the classifier that lacks the image's class.
      pixels: float32 [H, W, C] in [0, 1].
      path: of the image's shard; path and index seed the random generator.
      index: of the image in its shard.
      partner: the other image, for `averages` and `halves`.

    Returns:
      float32 [H, W, C] in [0, 1].
    """
    if kind == "patches":
        seed = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "little")
        generator = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
        return _shuffled(pixels, generator)
    if kind == "averages":
        return (pixels + partner) / 2
    if kind == "halves":
        middle = pixels.shape[1] // 2
        return np.concatenate([partner[:, :middle], pixels[:, middle:]], axis=1)
    return pixels


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
