"""How many flags to expect of images that are like the calibration images, and how many images must be unlike them.

Let n be the number of calibration scores, b the number of those strictly below the threshold, and F0 the flags among N0
images drawn like the calibration images. The flagged share p of such images follows Beta(b + 1, n - b), and F0 given p
is binomial, so that F0 ~ BetaBinomial(N0, b + 1, n - b), the negative hypergeometric distribution (Guenther 1975):

    P(F0 <= m) = P(X > b), X ~ Hypergeometric(N0 + n, n, m + b + 1)

since at most m of the images lie below the threshold if more than b calibration scores are among the m + b + 1 lowest
of all N0 + n scores. A Beta interval of p, times N0, ignores the second step: with 1,000 calibration images and 213
others it covers 67 % instead of 95 %.

If several calibration scores equal the threshold, or share its step, p is only known to lie between the shares below
two neighbouring scores: the lower end then comes from BetaBinomial(N0, b, n + 1 - b).

All of this holds for a threshold fixed beforehand, and for images that are independent and drawn like the calibration
images. `design_effect` measures how far from independent they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.stats import hypergeom

# Confidence level of the interval, two-sided, and of the lower bound, one-sided.
CONFIDENCE = 0.95
# Draws for a sum over several thresholds, whose distribution has no closed form.
_DRAWS = 10_000


@dataclass(frozen=True)
class Group:
    """Images that are compared with one threshold.

    Attributes:
      images: number of images with a score.
      calibration_images: n >= 1, the number of calibration scores.
      below: b in [0, n), how many calibration scores are strictly below the threshold.
      tied: whether several calibration scores equal the threshold.
    """

    images: int
    calibration_images: int
    below: int
    tied: bool = False

    @property
    def expected(self) -> float:
        """Number of flags to expect if all images are like the calibration images; with ties, the upper end."""
        return self.images * (self.below + 1) / (self.calibration_images + 1)


class Interval(NamedTuple):
    """An interval of counts, both ends included."""

    low: int
    high: int


def flags_at_most(count: int, group: Group, rank: int | None = None) -> float:
    """The probability that at most `count` images of the group are flagged if all are like the calibration images.

    Args:
      count: from 0 to the number of images; below that the probability is 0.
      group: of the images.
      rank: j in [0, n + 1], how many calibration scores are at or below the threshold; defaults to `below + 1`.
    """
    rank = group.below + 1 if rank is None else rank
    if count < 0 or rank > group.calibration_images:
        return 0.0
    if rank == 0 or count >= group.images:
        return 1.0
    n = group.calibration_images
    return float(hypergeom.sf(rank - 1, group.images + n, n, count + rank))


def flags_to_expect(groups: Sequence[Group]) -> Interval:
    """The 95 % prediction interval of the number of flags if all images are like the calibration images.

    Args:
      groups: of the images; with more than one, the sum's distribution is drawn (10,000 draws, fixed seed).
    """
    groups, tail = _occupied(groups), (1 - CONFIDENCE) / 2
    if not groups:
        return Interval(0, 0)
    if len(groups) > 1:
        low, high = _draws(groups, lowest=True), _draws(groups, lowest=False)
        return Interval(int(low[int(tail * _DRAWS) - 1]), int(high[-int(tail * _DRAWS)]))
    (group,) = groups
    rank = _lowest_rank(group)
    return Interval(
        _smallest(lambda m: flags_at_most(m, group, rank) > tail, group.images),
        _smallest(lambda m: flags_at_most(m, group) >= 1 - tail, group.images),
    )


def unlike_at_least(groups: Sequence[Group], flagged: int) -> int:
    """A 95 % lower bound of the number of images, flagged or not, that were not drawn like the calibration images.

    It is L = min{m : P(F0 >= F - m | N0 = N - m) > 0.05}. If m images are unlike, at most m of the F flags are theirs,
    so that F0 >= F - m. Another image among the unlike ones lowers F - m by 1 and F0 by at most 1: the probability
    grows with m. With several groups it is not known which of them the m images are in, and N0 stays N.

    Args:
      groups: of the images.
      flagged: F, in all groups.
    """
    groups = _occupied(groups)
    if len(groups) > 1:
        return max(0, flagged - int(_draws(groups, lowest=False)[-int((1 - CONFIDENCE) * _DRAWS)]))

    def enough(m: int) -> bool:
        (group,) = groups
        rest = Group(group.images - m, group.calibration_images, group.below)
        return 1 - flags_at_most(flagged - m - 1, rest) > 1 - CONFIDENCE

    return _smallest(enough, flagged) if groups else 0


def _occupied(groups: Sequence[Group]) -> list[Group]:
    return [group for group in groups if group.images]


def _lowest_rank(group: Group) -> int:
    return group.below if group.tied else group.below + 1


def _smallest(holds: Callable[[int], bool], highest: int) -> int:
    """The smallest number from 0 to `highest` from which on a condition holds; it is taken to hold at `highest`."""
    low, high = 0, highest
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _draws(groups: Sequence[Group], lowest: bool) -> np.ndarray:
    """Sums over the groups of their numbers of flags, int64 [_DRAWS], ascending."""
    rng, sums = np.random.default_rng(0), np.zeros(_DRAWS, np.int64)
    for group in groups:
        rank, n = _lowest_rank(group) if lowest else group.below + 1, group.calibration_images
        if rank:
            sums += rng.binomial(group.images, rng.beta(rank, n + 1 - rank, _DRAWS))
    return np.sort(sums)
