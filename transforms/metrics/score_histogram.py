"""Mergeable counts of scores, sufficient for every threshold metric without keeping the scores.

    histogram = ScoreHistogram.of(scores)
    histogram.merge(ScoreHistogram.of(more_scores))
    lower, upper, counts = histogram.bins()

A histogram is exact while it has at most `max_keys` distinct scores, and bounded in memory beyond that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np

MAX_KEYS = 2**18

_MAGNITUDE_BITS = 2**63 - 1
_OCTAVE = 2**52
_HALF, _ONE, _SMALLEST_GAP, _LARGEST = (
    int(np.array(score).view(np.int64)) for score in (0.5, 1.0, 2.0**-53, np.finfo(np.float64).max)
)


class Bins(NamedTuple):
    """The non-empty bins of a histogram, ascending and disjoint.

    Attributes:
      lower: float64 [B], the smallest score that falls into the bin.
      upper: float64 [B], the largest score that falls into the bin; equal to `lower` if no bits were dropped.
      counts: int64 [B], > 0.
    """

    lower: np.ndarray
    upper: np.ndarray
    counts: np.ndarray


class CommonBins(NamedTuple):
    """The common bins of two histograms, ascending and disjoint; at least one of the two counts is above 0.

    Attributes:
      lower: float64 [B], as in `Bins`.
      upper: float64 [B], as in `Bins`.
      in_counts: int64 [B], of the first histogram.
      out_counts: int64 [B], of the second histogram.
    """

    lower: np.ndarray
    upper: np.ndarray
    in_counts: np.ndarray
    out_counts: np.ndarray


@dataclass(frozen=True, eq=False)
class _Run:
    """Counts by key. The arrays are shared between histograms and never written to.

    Attributes:
      level: how many low bits were dropped from the keys.
      keys: int64 [B], ascending, distinct.
      counts: int64 [B], > 0.
    """

    level: int
    keys: np.ndarray
    counts: np.ndarray

    def coarsened(self, level: int) -> "_Run":
        """The same scores with more low bits dropped; `level` is at least the current level."""
        return self if level == self.level else _Run(level, *_sum_equal(self.keys >> (level - self.level), self.counts))

    def fitted(self, max_keys: int) -> "_Run":
        """The same scores at the finest level with at most `max_keys` keys.

        Two neighbours stay distinct at a level as long as the highest bit in which they differ is kept, so all but
        `max_keys - 1` of the differences must be dropped.
        """
        if len(self.keys) <= max_keys:
            return self
        differences = (self.keys[1:] ^ self.keys[:-1]).view(np.uint64)
        largest_to_go = np.partition(differences, -max_keys)[-max_keys]
        return self.coarsened(self.level + int(largest_to_go).bit_length())


_EMPTY_RUN = _Run(0, np.empty(0, np.int64), np.empty(0, np.int64))


class ScoreHistogram:
    """Counts of finite float64 scores, sparse, mergeable, of bounded memory.

        >>> histogram = odin_beam.ScoreHistogram.of([0.1, 0.2, 0.2])
        >>> histogram.merge(odin_beam.ScoreHistogram.of([0.3]))
        >>> histogram.bins().counts
        array([1, 2, 1])

    A score's key is an order-preserving int64 image of its bits (-0.0 is 0.0), with extra resolution just below 1,
    where the probabilities of a confident classifier crowd. Beyond `max_keys` distinct keys, low bits are dropped,
    always to the finest level that fits. The level of a part is never above that of the whole, so the result depends
    only on the multiset of scores, not on the order or grouping in which they were added and merged.

    The keys are stored in sorted runs, each less than half as long as the one before: the first is the histogram
    itself, the others buffer what has not been merged into it yet. So a score costs amortised O(log) work, adding a few
    scores to a large histogram does not pass over it, and fewer than `2 * max_keys` keys are stored.
    """

    def __init__(self, max_keys: int = MAX_KEYS):
        """An empty histogram.

        Args:
          max_keys: maximum number of distinct keys, at least 2 (the sign is never dropped).

        Raises:
          ValueError: `max_keys` is below 2.
        """
        if max_keys < 2:
            raise ValueError(f"max_keys must be at least 2, not {max_keys}")
        self.max_keys = max_keys
        self._runs = (_EMPTY_RUN,)

    @classmethod
    def of(cls, scores: np.ndarray, max_keys: int = MAX_KEYS) -> Self:
        """The histogram of some scores; arguments and errors as in `add` and the constructor."""
        histogram = cls(max_keys)
        histogram.add(scores)
        return histogram

    def add(self, scores: np.ndarray) -> None:
        """Adds scores, in place.

        Args:
          scores: real numbers [N], N >= 0, converted to float64.

        Raises:
          ValueError: a score is NaN or infinite; nothing was added.
        """
        scores = np.asarray(scores, dtype=np.float64)
        if not np.isfinite(scores).all():
            raise ValueError(f"{np.count_nonzero(~np.isfinite(scores))} of {len(scores)} scores are NaN or infinite")
        self._push(_Run(0, *np.unique(_to_keys(scores), return_counts=True)))

    def merge(self, other: "ScoreHistogram") -> None:
        """Adds the scores of another histogram, in place; the other is not changed.

        Raises:
          ValueError: the histograms differ in `max_keys`; nothing was merged.
        """
        if other.max_keys != self.max_keys:
            raise ValueError(f"cannot merge histograms of max_keys {self.max_keys} and {other.max_keys}")
        for run in other._runs:
            self._push(run)

    @property
    def count(self) -> int:
        """Number of scores added."""
        return sum(int(run.counts.sum()) for run in self._runs)

    @property
    def level(self) -> int:
        """Number of low bits dropped from the keys, 0 to 63."""
        return self._compacted().level

    @property
    def exact(self) -> bool:
        """Whether every distinct score has its own bin."""
        return self.level == 0

    def bins(self) -> Bins:
        """The non-empty bins, ascending."""
        run = self._compacted()
        return Bins(*_edges(run.keys, run.level), run.counts.copy())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ScoreHistogram):
            return NotImplemented
        a, b = self._compacted(), other._compacted()
        return (
            self.max_keys == other.max_keys
            and a.level == b.level
            and np.array_equal(a.keys, b.keys)
            and np.array_equal(a.counts, b.counts)
        )

    # Mutable, so not hashable.
    __hash__ = None

    def __getstate__(self) -> dict:
        return {"max_keys": self.max_keys, "_runs": (self._compacted(),)}

    def _push(self, run: _Run) -> None:
        """Appends a run, merged with those last runs that are at most twice as long as everything after them."""
        kept = len(self._runs)
        length = len(run.keys)
        while kept and 2 * length >= len(self._runs[kept - 1].keys):
            kept -= 1
            length += len(self._runs[kept].keys)
        self._runs = (*self._runs[:kept], _merged((*self._runs[kept:], run)).fitted(self.max_keys))

    def _compacted(self) -> _Run:
        """All runs merged into one, which also becomes the histogram's state."""
        if len(self._runs) > 1:
            self._runs = (_merged(self._runs).fitted(self.max_keys),)
        return self._runs[0]


def common_bins(in_histogram: ScoreHistogram, out_histogram: ScoreHistogram) -> CommonBins:
    """The bins of both histograms, aligned at the coarser of their levels; neither histogram's value changes."""
    runs = in_histogram._compacted(), out_histogram._compacted()
    union = _merged(runs)
    counts = np.zeros((2, len(union.keys)), np.int64)
    for row, run in zip(counts, runs, strict=True):
        aligned = run.coarsened(union.level)
        row[np.searchsorted(union.keys, aligned.keys)] = aligned.counts
    return CommonBins(*_edges(union.keys, union.level), *counts)


def _merged(runs: Sequence[_Run]) -> _Run:
    """The contents of one or more runs in a single run, at the coarsest of their levels."""
    level = max(run.level for run in runs)
    runs = [run.coarsened(level) for run in runs]
    keys = np.concatenate([run.keys for run in runs])
    counts = np.concatenate([run.counts for run in runs])
    # The stable sort is timsort, which merges the sorted runs instead of sorting anew.
    order = np.argsort(keys, kind="stable")
    return _Run(level, *_sum_equal(keys[order], counts[order]))


def _sum_equal(keys: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ascending keys -> distinct ascending keys, and the sum of the counts of each."""
    is_first = np.ones(len(keys), bool)
    is_first[1:] = keys[1:] != keys[:-1]
    starts = np.flatnonzero(is_first)
    return keys[starts], np.add.reduceat(counts, starts)


def _to_keys(scores: np.ndarray) -> np.ndarray:
    """Finite float64 -> int64 in the same order: an image of the magnitude's bits, with the score's sign."""
    bits = scores.view(np.int64)
    keys = _magnitude_keys(bits & _MAGNITUDE_BITS)
    return np.where(bits < 0, -keys, keys)


def _magnitude_keys(bits: np.ndarray) -> np.ndarray:
    """Bits of magnitudes -> distinct keys in the same order, from 0 to the largest int64.

    Dropping low bits gives a resolution proportional to the distance from 0. Between 0.5 and 1 the distance from 1
    matters as much: the distance of a key from the key of 1 is the number of steps to 1 plus the logarithm of the
    distance, in units that make the two equal at most. That takes twice as many keys as there are numbers; the bit
    patterns of NaN and infinity provide the room.
    """
    keys = bits + np.where(bits >= _ONE, _OCTAVE, 0)
    below = (bits > _HALF) & (bits < _ONE)
    gaps = 1.0 - bits[below].view(np.float64)
    keys[below] = _ONE + _OCTAVE - (_ONE - bits[below]) - (gaps.view(np.int64) - _SMALLEST_GAP) // 53
    return keys


def _magnitude_bits(keys: np.ndarray) -> np.ndarray:
    """Keys, >= 0 -> the bits of the largest magnitude with that key or a lower one."""
    bits = np.minimum(np.where(keys >= _ONE + _OCTAVE, keys - _OCTAVE, keys), _LARGEST)
    below = (keys > _HALF) & (keys < _ONE + _OCTAVE)
    targets = keys[below]
    low, high = np.full(len(targets), _HALF), np.full(len(targets), _ONE)
    # Bisection: the answer is at least `low` and below `high`.
    while len(targets) and (high - low > 1).any():
        middle = (low + high) // 2
        fits = _magnitude_keys(middle) <= targets
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    bits[below] = low
    return bits


def _largest_scores(keys: np.ndarray) -> np.ndarray:
    """For each key, the largest score with that key or a lower one."""
    magnitudes = np.where(keys < 0, -keys - 1, keys)
    # For a negative key it is the next larger magnitude, negated.
    scores = (_magnitude_bits(magnitudes) + (keys < 0)).view(np.float64)
    return np.where(keys < 0, -scores, scores)


def _edges(keys: np.ndarray, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys at a level -> the smallest and the largest score for each key."""
    first, last = keys << level, (keys << level) | ((1 << level) - 1)
    # The smallest score with at least this key is the negated largest score of the negated key; 0 has one sign only.
    return 0.0 - _largest_scores(-np.maximum(first, -_MAGNITUDE_BITS)), _largest_scores(last)
