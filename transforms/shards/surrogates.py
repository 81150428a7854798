"""Surrogates: foreign images made of the user's own, where no out-of-distribution images are at hand.

They share colours and textures with what the classifier knows, and lack its objects. How well a detector tells them
from the originals hints at how it does on foreign images, no more.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from odin_beam.transforms.shards.records import Record

KINDS = ("patches", "noise", "averages")
# Patches along either side: coarse enough to keep textures, fine enough to break every object.
PATCHES = 4
# Standard deviation of the pixel noise, in [0, 1] units.
NOISE = 0.2


def altered(kind: str, pixels: np.ndarray, path: str, index: int, partner: np.ndarray | None = None) -> np.ndarray:
    """One surrogate; the same for the same arguments, on any worker.

    Args:
      kind: of `KINDS`. `patches`: cut into 4 x 4 patches, which are shuffled; what goes into no whole patch stays.
        `noise`: normal noise of standard deviation 0.2 on every pixel, clipped. `averages`: the mean of two images.
      pixels: float32 [H, W, C] in [0, 1].
      path: of the image's shard; with the index it seeds what is random.
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
    """Gives each good record the next good one for a partner, the last one the one before.

    Bad records pass through. A good one that is alone in its shard becomes a bad one.
    """
    waiting = before = None
    for record in records:
        if record.problem:
            yield record
            continue
        if waiting is not None:
            yield replace(waiting, partner=record)
        before, waiting = waiting, record
    if before is not None:
        yield replace(waiting, partner=before)
    elif waiting is not None:
        yield replace(waiting, payload=None, problem=("no_partner", "the only image of its shard: no other to average"))
