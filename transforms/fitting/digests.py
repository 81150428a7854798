"""Which images are fitted to: those of the lowest digests, so that neither shards nor their order matter.

lowest = LowestDigests(1_000_000)
lowest.add(digests, keys)
lowest.limit()                              -> (digest, key) of the last image that is taken; None if all are
"""

import hashlib

import numpy as np

# Images that are added before the lowest are sought again.
_PENDING = 1 << 18
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def row_keys(shard: str, indexes: np.ndarray) -> np.ndarray:
    """Tells images of equal digests apart: uint64 [N], a hash of the shard's name and the indexes int64 [N] in it."""
    start = np.uint64(int.from_bytes(hashlib.sha256(shard.encode()).digest()[:8], "little"))
    # SplitMix64 (Steele, Lea and Flood 2014); it wraps around on purpose.
    with np.errstate(over="ignore"):
        z = start + (indexes.astype(np.uint64) + np.uint64(1)) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def is_within(digests: np.ndarray, keys: np.ndarray, limit: tuple[int, int] | None) -> np.ndarray:
    """Which images are taken, bool [N]; arguments as in `LowestDigests`."""
    if limit is None:
        return np.ones(len(digests), bool)
    digest, key = np.array(limit, np.uint64)
    return (digests < digest) | ((digests == digest) & (keys <= key))


class LowestDigests:
    """The images with the lowest digests; of equal digests, those with the lowest keys.

    Args:
      most: N, the largest number of images.

    Attributes:
      count: images that were added.
    """

    def __init__(self, most: int):
        self._most = most
        self._parts = [np.zeros((2, 0), np.uint64)]
        self.count = 0

    def add(self, digests: np.ndarray, keys: np.ndarray, count: int | None = None) -> None:
        """Adds images.

        Args:
          digests: uint64 [M].
          keys: uint64 [M]; see `row_keys`.
          count: of images that these are the lowest of; M if None.
        """
        self._parts.append(np.stack([digests, keys]).astype(np.uint64))
        self.count += len(digests) if count is None else count
        if sum(part.shape[1] for part in self._parts[1:]) > max(_PENDING, self._most):
            self._compact()

    def lowest(self) -> tuple[np.ndarray, np.ndarray]:
        """Digests and keys of at most N images, uint64, ascending."""
        self._compact()
        return self._parts[0][0], self._parts[0][1]

    def limit(self) -> tuple[int, int] | None:
        """Digest and key of the N-th image; None if there are no more than N."""
        digests, keys = self.lowest()
        return (int(digests[-1]), int(keys[-1])) if self.count > self._most else None

    def _compact(self) -> None:
        if len(self._parts) == 1:
            return
        both = np.concatenate(self._parts, axis=1)
        self._parts = [both[:, np.lexsort((both[1], both[0]))[: self._most]]]
