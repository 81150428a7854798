"""A batch on several cores: each takes a part of it through all the layers.

All cores on one layer after the other wait for each other and hand the activations around; a core that stays with a
few images finds them in its cache. On a GPU a batch stays whole.
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

# Of the images that a core takes at once where nothing is known of the layers, or none of them fits into its cache: 12
# of 32 x 32, and 8 however large they are.
_PIXELS_AT_ONCE = 12 * 32 * 32
_IMAGES_AT_ONCE = 8
# Of a core's own cache, for the largest of the arrays that layers hand on; filters take the rest.
_SHARE_OF_CACHE = 7 / 8
# As many as it takes to handle so many numbers in one forward pass: starting on a part takes a third of a millisecond,
# which is to be little of its time.
_VALUES_AT_ONCE = 1 << 22
# And as many as it takes to handle so many numbers for each weight, which every part reads from memory.
_VALUES_PER_WEIGHT = 10
_CACHE = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Work:
    """What a forward pass handles.

    Attributes:
      values: numbers that the layers compute for one image, all together.
      largest: those of the array that has the most.
      weights: numbers that are the same for all images.
    """

    values: int
    largest: int
    weights: int


def images_per_part(shape: Sequence[int], bits: int = 32, work: Work | None = None) -> int:
    """How many images a core takes through all layers at once.

    Two at least of what layers hand on are to fit into the cache that a core has for itself, or it is left out of
    account. The size of that cache counts, nothing that is measured: parts of other sizes give other last bits.

    Args:
      shape: (H, W, C) of an image.
      bits: of a number that one layer hands to the next.
      work: of the layers; None where that is not known.
    """
    usual = max(_IMAGES_AT_ONCE, _PIXELS_AT_ONCE * 32 // (bits * math.prod(shape[:2])))
    if work is None:
        return usual
    worth_a_start = max(_VALUES_AT_ONCE, _VALUES_PER_WEIGHT * work.weights) // (math.prod(shape) + work.values)
    in_cache = int(_SHARE_OF_CACHE * _cache_bytes()) * 8 // (bits * max(1, work.largest))
    return max(worth_a_start, in_cache if in_cache > 1 else usual)


def _cache_bytes() -> int:
    """Of the second level, which on server processors each core has for itself; 0 where the system does not say."""
    try:
        said = _CACHE.read_text().strip()
    except OSError:
        return 0
    return int(said[:-1]) * 1024 if said.endswith("K") and said[:-1].isdecimal() else 0


def split(pixels: np.ndarray, at_once: int) -> list[np.ndarray]:
    """The parts of a batch, of sizes that differ by one at most; with GPUs the batch stays whole.

    They are as many for each core of the machine. How many of these the process uses must not count: an image's logits
    depend, in their last bit, on the size of its part.

    Args:
      pixels: [N, H, W, C], N >= 1.
      at_once: images in a part, at most.
    """
    if device.on_gpu():
        return [pixels]
    cores = os.cpu_count() or 1
    count = cores * math.ceil(len(pixels) / (cores * at_once))
    return [part for part in np.array_split(pixels, count) if len(part)]


def compute(
    work: Callable[[np.ndarray], Result], parts: Sequence[np.ndarray], pool: ThreadPoolExecutor
) -> list[Result]:
    """`work` of each part, in order. An error is raised when nothing runs any more."""
    if len(parts) == 1:
        return [work(parts[0])]
    running = [pool.submit(work, part) for part in parts]
    done = wait(running, return_when=FIRST_EXCEPTION).done
    for one in running:
        one.cancel()
    wait(running)
    for one in done:
        one.result()
    return [one.result() for one in running]
