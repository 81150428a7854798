"""How far the mix of predicted classes of a new batch lies from that of a reference batch."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from odin_beam.transforms.comparison.verdicts import Effect

# Of total variation: a smaller move is not relevant.
MIX_LIMIT = 0.1
# Classes that are named.
_NAMED = 5


class Mix(NamedTuple):
    """Total variation between two mixes of classes.

    Attributes:
      total_variation: half the sum of the absolute differences of the classes' shares, in [0, 1].
      expected: its mean if the images of both batches are dealt out anew, which is above 0 by chance alone.
    """

    total_variation: float
    expected: float

    @property
    def excess(self) -> float:
        """Total variation beyond chance; about 0, and often below it, for equal mixes."""
        return self.total_variation - self.expected


def class_mix(reference: Mapping[int, int], new: Mapping[int, int]) -> Mix:
    """Total variation between two batches' classes, and its mean over permutations of all images.

    With N images in total, n of them in the reference, K of a class and X of these in the reference, the shares differ
    by N / (n (N - n)) times X - nK/N, and X is hypergeometric. Its mean absolute deviation is exact (Diaconis and
    Zabell 1991): E|X - nK/N| = 2 k (N - K - n + k) P(X = k) / N, k = floor(nK/N) + 1.

    Args:
      reference: class -> images, at least one in all.
      new: likewise.
    """
    n, m = sum(reference.values()), sum(new.values())
    classes = reference.keys() | new.keys()
    differences = [abs(reference.get(c, 0) / n - new.get(c, 0) / m) for c in classes]
    deviations = [_deviation(reference.get(c, 0) + new.get(c, 0), n, n + m) for c in classes]
    return Mix(math.fsum(differences) / 2, math.fsum(deviations) * (n + m) / n / m / 2)


def _deviation(marked: int, drawn: int, total: int) -> float:
    """Mean absolute deviation of the number of marked ones among those drawn, without replacement, of all."""
    k = marked * drawn // total + 1
    if k > min(marked, drawn):
        return 0.0
    logarithm = _log_choose(marked, k) + _log_choose(total - marked, drawn - k) - _log_choose(total, drawn)
    return 2 * k * (total - marked - drawn + k) * math.exp(logarithm) / total


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def mix_effect(reference: Mapping[int, int], new: Mapping[int, int], level: float) -> Effect:
    """Total variation beyond chance, with an interval.

    One image changes total variation by at most 1/n or 1/m, so that it lies within
    h = sqrt(ln(2/a) / 2 (1/n + 1/m)), a = `level`, of its mean with probability 1 - a (McDiarmid 1989). This mean is
    above the true total variation, by about `Mix.expected` if the mixes are equal and less otherwise: the interval is
    from `excess` - h to `total_variation` + h.

    Args:
      reference: class -> images, n >= 1 in all.
      new: class -> images, m >= 1 in all.
      level: share of intervals that may miss the true total variation.
    """
    mix = class_mix(reference, new)
    half = math.sqrt(math.log(2 / level) / 2 * (1 / sum(reference.values()) + 1 / sum(new.values())))
    low, high = max(0.0, mix.excess - half), min(1.0, mix.total_variation + half)
    # What chance adds shrinks with the number of images as h does.
    chance = mix.expected / math.sqrt(1 / sum(reference.values()) + 1 / sum(new.values()))
    width = (math.sqrt(math.log(2 / level)) + math.sqrt(2) * chance) ** 2
    return Effect(max(0.0, mix.excess), low, high, 0.0, MIX_LIMIT, width)


def mix_against_rest(reference: Mapping[int, int], shard: Mapping[int, int]) -> float | None:
    """Total variation beyond chance of one shard against all others, at least 0; None if there are no others.

    Args:
      reference: class -> images of all shards, that shard's included.
      shard: class -> images of the shard, at least one in all.
    """
    rest = {c: left for c, count in reference.items() if (left := count - shard.get(c, 0))}
    return max(0.0, class_mix(rest, shard).excess) if rest else None


def changed_most(reference: Mapping[int, int], new: Mapping[int, int]) -> list[dict[str, Any]]:
    """The classes whose shares differ most, JSON-compatible: `class`, `reference_share`, `new_share`."""
    n, m = sum(reference.values()), sum(new.values())
    rows = [
        {"class": c, "reference_share": reference.get(c, 0) / n, "new_share": new.get(c, 0) / m}
        for c in sorted(reference.keys() | new.keys())
    ]
    order = np.argsort([-abs(row["new_share"] - row["reference_share"]) for row in rows], kind="stable")
    return [rows[i] for i in order[:_NAMED]]
