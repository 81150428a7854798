"""A batch on several cores: each core takes part of the batch through all layers.

If all cores share each layer, they wait for each other and exchange activations; a core that keeps a few images finds
them in its cache. On a GPU the batch stays whole.
"""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from odin_beam.transforms.model import device

# Images in a part if nothing is known about the layers, or if no layer's output fits into the core's cache: 12 of
# 32 x 32, and 8 whatever their size.
_PIXELS_AT_ONCE = 12 * 32 * 32
_IMAGES_AT_ONCE = 8
# Share of a core's cache for the largest array passed between layers; filters take the rest.
_SHARE_OF_CACHE = 7 / 8
# A part computes at least this many values in one forward pass: starting a part takes a third of a millisecond, which
# should be a small share of its time.
_VALUES_AT_ONCE = 1 << 22
# It also computes at least this many values per weight, since every part reads all weights from memory.
_VALUES_PER_WEIGHT = 10
_CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Work:
    """The amount of work in a forward pass.

    Attributes:
      values: numbers that all layers together compute for one image.
      largest: size of the largest array that a layer computes for one image.
      weights: numbers that are the same for all images.
    """

    values: int
    largest: int
    weights: int


def images_per_part(shape: Sequence[int], bits: int = 32, work: Work | None = None) -> int:
    """How many images a core takes through all layers at once.

    The largest array passed between layers should fit into the core's private cache for at least two images; otherwise
    the cache is ignored. Only the size of that cache counts, no measurement: other part sizes give other last bits.

    Args:
      shape: (H, W, C) of an image.
      bits: of a number passed from one layer to the next.
      work: of the layers; None if unknown.
    """
    usual = max(_IMAGES_AT_ONCE, _PIXELS_AT_ONCE * 32 // (bits * math.prod(shape[:2])))
    if work is None:
        return usual
    worth_a_start = max(_VALUES_AT_ONCE, _VALUES_PER_WEIGHT * work.weights) // (math.prod(shape) + work.values)
    in_cache = int(_SHARE_OF_CACHE * _cache_bytes()) * 8 // (bits * max(1, work.largest))
    return max(worth_a_start, in_cache if in_cache > 1 else usual)


def _cache_bytes() -> int:
    """Size of the second-level cache, which is private to a core on server processors; 0 if the system does not say."""
    try:
        size = _CACHE.read_text().strip()
    except OSError:
        return 0
    return int(size[:-1]) * 1024 if size.endswith("K") and size[:-1].isdecimal() else 0


def split(pixels: np.ndarray, at_once: int) -> list[np.ndarray]:
    """The parts of a batch, whose sizes differ by one at most; with GPUs the batch stays whole.

    Each core of the machine gets the same number of parts. The number of cores the process uses must not matter: the
    last bits of an image's logits depend on the size of its part.

    Args:
      pixels: [N, H, W, C], N >= 1.
      at_once: maximum number of images in a part.
    """
    if device.on_gpu():
        return [pixels]
    cores = os.cpu_count() or 1
    count = cores * math.ceil(len(pixels) / (cores * at_once))
    return [part for part in np.array_split(pixels, count) if len(part)]


def compute(
    work: Callable[[np.ndarray], Result], parts: Sequence[np.ndarray], pool: ThreadPoolExecutor
) -> list[Result]:
    """`work` of each part, in order. An error is raised only after everything has stopped running."""
    if len(parts) == 1:
        return [work(parts[0])]
    running = [pool.submit(work, part) for part in parts]
    done = wait(running, return_when=FIRST_EXCEPTION).done
    for future in running:
        future.cancel()
    wait(running)
    for future in done:
        future.result()
    return [future.result() for future in running]
