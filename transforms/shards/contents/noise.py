"""Noise as an out-of-distribution source: images that no file contains; the index alone determines each image."""

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from odin_beam.transforms.shards.contents.content import Content, put
from odin_beam.transforms.shards.records import Record
from odin_beam.transforms.shards.shard import FeatureNames, Shard

if TYPE_CHECKING:
    from odin_beam.transforms.images.example import ImageRecord

DISTRIBUTIONS = ("gaussian", "uniform")


@dataclass(frozen=True)
class Noise(Content):
    """Consecutive noise images.

    Attributes:
      distribution: `gaussian` or `uniform`.
      first: index of the first image.
      count: number of images.
    """

    distribution: str
    first: int
    count: int

    def read(self, shard: Shard, folder: str, fetchers: Executor) -> Iterator[Record]:
        return (Record(index, None, b"") for index in range(self.first, self.first + self.count))

    def read_back(self, shard: Shard, folder: str, index: int, offset: int | None) -> Record | None:
        return Record(index, None, b"")

    def parse(self, record: Record, names: FeatureNames) -> "ImageRecord":
        from odin_beam.transforms.images.example import ImageRecord

        return ImageRecord(b"", None, None, None)

    def pixels(self, record, parsed, shard, input_shape, geometry, names, out=None) -> np.ndarray:
        return put(noise_image(self.distribution, record.index, input_shape), out)

    def name(self, shard: Shard) -> str:
        return self.distribution

    def uri(self, shard: Shard, record: Record, parsed: "ImageRecord | None") -> str | None:
        return None

    def expected_images(self, shard: Shard, mean_bytes: float) -> int:
        return self.count

    def first_index(self) -> int:
        return self.first

    def holds(self, index: int) -> bool:
        return self.first <= index < self.first + self.count


def noise_image(distribution: str, index: int, shape: tuple[int, int, int]) -> np.ndarray:
    """One noise image of the ODIN paper (Liang et al. 2018, section 4.2), pixels independent.

    It is drawn by a counter-based generator keyed by distribution and index, so any worker generates the same image
    without drawing the images before it.

    Args:
      distribution: `gaussian`, N(0.5, 1) clipped to [0, 1]; `uniform`, U(0, 1).
      index: of the image, >= 0.
      shape: (height, width, channels).

    Returns:
      float32 array of that shape in [0, 1]; not rounded to 256 steps.
    """
    key = np.array([DISTRIBUTIONS.index(distribution), index], np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key))
    if distribution == "uniform":
        return generator.random(shape, np.float32)
    return np.clip(generator.standard_normal(shape, np.float32) + np.float32(0.5), 0, 1)
