"""Whether a batch has moved: an effect with its interval, against what is relevant and what the reference does itself.

Effect sizes and not p-values: of a million images, a difference that nobody cares about has a p-value of 0.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

MOVED, NO_MOVE, CANNOT_SAY = "moved", "no relevant move", "cannot say"
# The share of the reference's shards that a move must exceed.
BEYOND = 0.95
# With fewer shards, a shard like the others would exceed all of them with a probability of more than 1 - BEYOND.
LEAST_SHARDS = 19
# More images than this are no advice.
_MOST_IMAGES = 10**9


@dataclass(frozen=True)
class Effect:
    """A measure of a move.

    Attributes:
      value: as measured.
      low: lower end of its interval.
      high: upper end.
      center: the value without a move.
      limit: the distance from `center` up to which a move is not relevant.
      width: with N images in either batch, the interval is about `value` +- sqrt(`width` / N).
      shards: the distance from `center` that the reference's own shards keep, each against all others; None if that is
        unknown.
    """

    value: float
    low: float
    high: float
    center: float
    limit: float
    width: float
    shards: float | None = None

    @property
    def size(self) -> float:
        """The distance from `center` as measured."""
        return abs(self.value - self.center)

    @property
    def least(self) -> float:
        """The smallest distance from `center` within the interval."""
        return max(0.0, self.low - self.center, self.center - self.high)

    @property
    def most(self) -> float:
        """The largest distance from `center` within the interval."""
        return max(self.high - self.center, self.center - self.low)

    @property
    def relevant(self) -> bool:
        """Whether the whole interval lies beyond the limit."""
        return self.least > self.limit

    @property
    def unusual(self) -> bool:
        """Whether the whole interval lies beyond what the reference's own shards do, as far as that is known."""
        return self.shards is None or self.least > self.shards

    @property
    def images_needed(self) -> int | None:
        """About how many images of either batch it takes to decide, to two digits; None for more than a billion."""
        margin = abs(self.size - self.limit)
        needed = self.width / margin**2 if margin else math.inf
        if needed > _MOST_IMAGES:
            return None
        unit = 10 ** max(0, len(str(int(needed))) - 2)
        # Rounding error must not cost a unit.
        return math.ceil(needed / unit - 1e-6) * unit

    def widened(self, slack: float) -> Self:
        """The same effect with an interval, within [0, 1], that is longer by `slack` at either end."""
        return replace(self, low=max(0.0, self.low - slack), high=min(1.0, self.high + slack)) if slack else self


@dataclass(frozen=True)
class Verdict:
    """What effects say together.

    Attributes:
      verdict: `MOVED`, `NO_MOVE` or `CANNOT_SAY`.
      reason: why it cannot be said: `images` are too few, or the reference's own `shards` differ as much; else None.
      images_needed: with reason `images`, about how many images of either batch it takes; None for more than a billion.
    """

    verdict: str
    reason: str | None = None
    images_needed: int | None = None


def judge(effects: Sequence[Effect]) -> Verdict:
    """The verdict on several measures of the same move.

    It is `MOVED` if the interval of at least one lies beyond its limit and beyond what the reference's shards do, and
    `NO_MOVE` if the intervals of all lie within their limits.
    """
    relevant = [effect for effect in effects if effect.relevant]
    if any(effect.unusual for effect in relevant):
        return Verdict(MOVED)
    if relevant:
        return Verdict(CANNOT_SAY, "shards")
    if all(effect.most <= effect.limit for effect in effects):
        return Verdict(NO_MOVE)
    larger = [effect.images_needed for effect in effects if effect.size > effect.limit]
    if larger:
        return Verdict(CANNOT_SAY, "images", min((n for n in larger if n is not None), default=None))
    smaller = [effect.images_needed for effect in effects]
    return Verdict(CANNOT_SAY, "images", None if None in smaller else max(smaller))


def together(verdicts: Iterable[str]) -> str:
    """`MOVED` if one of them is, `NO_MOVE` if all of them are, else `CANNOT_SAY`; also without any."""
    found = set(verdicts)
    if MOVED in found:
        return MOVED
    return NO_MOVE if found == {NO_MOVE} else CANNOT_SAY


def shard_limit(sizes: Sequence[float]) -> float | None:
    """The distance that `BEYOND` of the reference's shards keep, each against all others.

    It is the value of rank ceil(0.95 (k + 1)) of k, which another shard like them exceeds with a probability of at most
    5 %; with fewer than `LEAST_SHARDS` shards it is the largest, which that shard exceeds with probability 1 / (k + 1).

    Args:
      sizes: of the k shards' own effects; k = 0 gives None.
    """
    if not sizes:
        return None
    rank = math.ceil(round(BEYOND * (len(sizes) + 1), 9))
    return sorted(sizes)[min(rank, len(sizes)) - 1]
