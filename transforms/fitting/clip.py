"""Mergeable quantiles of the single features, for `react`: counts by the leading bits of float32.

    histogram = FeatureHistogram()
    histogram.add(features)
    histogram.quantile(0.9)

Counting by fixed bits costs a tenth of a `ScoreHistogram`, which sorts, and there are thousands of features an image.
"""

from collections.abc import Mapping
from typing import Self

import numpy as np

# Sign, exponent and 13 bits of the mantissa: bins are at most 1/8192 of their values wide.
_BITS = 22
_SHIFT = 32 - _BITS
_SIGN = np.uint32(1 << 31)


class FeatureHistogram:
    """Counts of finite float32 numbers, mergeable; the result does not depend on order or grouping."""

    def __init__(self):
        self._counts = np.zeros(1 << _BITS, np.int64)
        self._range = np.array([np.inf, -np.inf], np.float32)

    def add(self, features: np.ndarray) -> None:
        """Adds all entries of float32 features of any shape.

        Raises:
          ValueError: an entry is NaN or infinite; nothing was added.
        """
        values = np.ascontiguousarray(features, np.float32).ravel() + np.float32(0)
        if not len(values):
            return
        lowest, highest = values.min(), values.max()
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            raise ValueError("features are NaN or infinite")
        keys = _keys(values)
        first = int(keys.min())
        counts = np.bincount(keys - np.uint32(first))
        self._counts[first : first + len(counts)] += counts
        self._widen(lowest, highest)

    def merge(self, other: "FeatureHistogram") -> None:
        """Adds the entries of another histogram."""
        self._counts += other._counts
        self._widen(*other._range)

    @property
    def count(self) -> int:
        """Number of entries."""
        return int(self._counts.sum())

    @property
    def smallest(self) -> float:
        """The smallest entry; infinite where there is none."""
        return float(self._range[0])

    def quantile(self, share: float) -> float:
        """The quantile by NumPy's `linear` convention: the value at rank `share * (count - 1)`, from 0.

        The entries of a bin are taken as spread evenly over it, so the value is right to 1/8192 of itself, and the rank
        much closer where features are spread smoothly over the width of a bin.

        Raises:
          ValueError: there are no entries.
        """
        total = np.cumsum(self._counts)
        if not total[-1]:
            raise ValueError("no features were added")
        rank = share * (total[-1] - 1)
        key = int(np.searchsorted(total, rank, side="right"))
        count = self._counts[key]
        inside = (rank - (total[key] - count) + 0.5) / count
        low, high = _edges(key)
        low, high = max(low, self.smallest), min(high, float(self._range[1]))
        return low + inside * (high - low)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays for an `.npz` file."""
        keys = np.flatnonzero(self._counts)
        return {"keys": keys, "counts": self._counts[keys], "range": self._range.copy()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The histogram that `to_arrays` wrote.

        Raises:
          ValueError: an array is missing, or of another shape, type or range.
        """
        try:
            keys, counts, spread = (arrays[name] for name in ("keys", "counts", "range"))
        except KeyError as e:
            raise ValueError(f"not a histogram of features: no {e}") from None
        good = keys.dtype == counts.dtype == np.int64 and keys.ndim == 1 and keys.shape == counts.shape
        good = good and spread.dtype == np.float32 and spread.shape == (2,)
        if not (good and np.all((keys >= 0) & (keys < 1 << _BITS) & (counts > 0)) and np.all(np.diff(keys) > 0)):
            raise ValueError("not a histogram of features")
        histogram = cls()
        histogram._counts[keys] = counts
        histogram._range = np.array(spread)
        return histogram

    def _widen(self, lowest: np.floating, highest: np.floating) -> None:
        self._range = np.array([min(self._range[0], lowest), max(self._range[1], highest)], np.float32)


def _keys(values: np.ndarray) -> np.ndarray:
    """Leading bits of float32 in the order of the values."""
    bits = values.view(np.uint32)
    return np.where(bits & _SIGN, ~bits, bits | _SIGN) >> _SHIFT


def _edges(key: int) -> tuple[float, float]:
    """The smallest number of a bin, and of the next."""

    def value(ordered: int) -> float:
        bits = ordered ^ int(_SIGN) if ordered & int(_SIGN) else ~ordered & 0xFFFFFFFF
        return float(np.uint32(bits).view(np.float32))

    return value(key << _SHIFT), value(min((key + 1) << _SHIFT, 0xFFFFFFFF))
