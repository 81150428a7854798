"""The bank of features that neighbours are looked up in: the same number of images of each class, chosen by hash.

    bank = Bank(classes=10, width=342, rows=10_000)
    bank.add(features, energies, labels, digests, keys)

The images of a class are those of the lowest digests, so neither shards nor the order of images matter.
"""

from collections.abc import Mapping
from typing import Self

import numpy as np


class Bank:
    """At most `rows // classes` images of each class, and at least one; a remainder is left unused.

    Args:
      classes: K.
      width: D, of the features.
      rows: B, the largest number of images, where it is at least K.

    Attributes:
      labels: int64 [b], ascending; within a class by digest, then key.
      digests: uint64 [b].
      keys: uint64 [b].
      energies: float32 [b].
      features: float32 [b, D].
    """

    def __init__(self, classes: int, width: int, rows: int):
        self.classes, self.quota = classes, max(1, rows // classes)
        self.labels = np.zeros(0, np.int64)
        self.digests, self.keys = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        self.energies, self.features = np.zeros(0, np.float32), np.zeros((0, width), np.float32)

    def __len__(self) -> int:
        return len(self.labels)

    def add(
        self, features: np.ndarray, energies: np.ndarray, labels: np.ndarray, digests: np.ndarray, keys: np.ndarray
    ) -> None:
        """Adds a batch.

        Args:
          features: float32 [N, D].
          energies: [N], log sum exp of the logits.
          labels: int [N], 0 to K - 1.
          digests: uint64 [N], of the encoded images.
          keys: uint64 [N], which tell images of equal digests apart: a digest of shard and index.

        Raises:
          ValueError: of another width, a class that does not exist, or lengths that differ; nothing was added.
        """
        arrays = [np.asarray(a, t) for a, t in zip((labels, digests, keys, energies, features), _TYPES, strict=True)]
        if len({len(array) for array in arrays}) > 1 or arrays[-1].shape[1:] != self.features.shape[1:]:
            raise ValueError(f"a bank of {self.features.shape[1]} features cannot take {[a.shape for a in arrays]}")
        if np.any((arrays[0] < 0) | (arrays[0] >= self.classes)):
            raise ValueError(f"labels must be classes from 0 to {self.classes - 1}")
        self._take(arrays)

    def merge(self, other: "Bank") -> None:
        """Adds the images of another bank.

        Raises:
          ValueError: of other classes, another width or size; nothing was merged.
        """
        if (other.classes, other.quota) != (self.classes, self.quota):
            raise ValueError("cannot merge banks of other classes or another size")
        self.add(other.features, other.energies, other.labels, other.digests, other.keys)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays for an `.npz` file."""
        return {"size": np.array([self.classes, self.quota])} | {name: getattr(self, name) for name in _FIELDS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The bank that `to_arrays` wrote.

        Raises:
          ValueError: an array is missing, or of another shape, type or range.
        """
        try:
            classes, quota = map(int, arrays["size"])
            given = [arrays[name] for name in _FIELDS]
            if classes < 1 or quota < 1 or [array.dtype for array in given] != [np.dtype(t) for t in _TYPES]:
                raise ValueError("size or types differ")
            bank = cls(classes, given[-1].shape[1], classes * quota)
            bank.add(*(arrays[name] for name in ("features", "energies", "labels", "digests", "keys")))
        except (KeyError, IndexError, TypeError, ValueError) as e:
            raise ValueError(f"not a bank of features: {e}") from None
        return bank

    def _take(self, arrays: list[np.ndarray]) -> None:
        old = [getattr(self, name) for name in _FIELDS]
        labels, digests, keys = (np.concatenate(pair) for pair in zip(old[:3], arrays[:3], strict=True))
        order = np.lexsort((keys, digests, labels))
        ordered = labels[order]
        places = np.arange(len(order)) - np.searchsorted(ordered, ordered)
        kept = order[places < self.quota]
        # Mostly nothing of a batch is among the lowest: then the features need not be copied.
        if len(kept) == len(self) and np.array_equal(kept, np.arange(len(self))):
            return
        for name, before, more in zip(_FIELDS, old, arrays, strict=True):
            setattr(self, name, _selected(before, more, kept))


def _selected(before: np.ndarray, more: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Rows of the two arrays' concatenation, which is not made."""
    result = np.empty((len(rows), *before.shape[1:]), before.dtype)
    is_old = rows < len(before)
    result[is_old] = before[rows[is_old]]
    result[~is_old] = more[rows[~is_old] - len(before)]
    return result


_FIELDS = ("labels", "digests", "keys", "energies", "features")
_TYPES = (np.int64, np.uint64, np.uint64, np.float32, np.float32)
