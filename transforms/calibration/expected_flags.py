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
images. Near-duplicates are not independent: 20 copies of each image have the spread of a twentieth of the images, so
that both bounds cover less than they say. `Spread.design` measures this by the spread between shards, and both
functions take it: an archive of N images then counts as N / design images, each standing for `design` images (Kish
1965).

scipy.stats takes a second to import, so it is imported where it is used: a mistake in a command shows before.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

# Confidence level of the interval, two-sided, and of the lower bound, one-sided.
CONFIDENCE = 0.95
# Draws for a sum over several thresholds, whose distribution has no closed form.
_DRAWS = 10_000
# A smaller design effect, or one that chance explains with more than this probability, is not taken for a clustering.
_CLEAR_DESIGN, _CHANCE = 2.0, 0.01


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


@dataclass(frozen=True)
class Spread:
    """How much the flagged share differs between shards; of judged images only.

    Attributes:
      shards: K, shards with at least one image.
      images: N, in all of them.
      flagged: F, in all of them.
      squares: sum over the shards of flagged ** 2 / images.
    """

    shards: int
    images: int
    flagged: int
    squares: float

    @property
    def design(self) -> float | None:
        """The design effect: observed over binomial variance of the shards' shares, weighted by size, at least 1.

        It is Pearson's chi-square over its K - 1 degrees of freedom: about 1 if images are independent and shards
        alike, about c if every image comes with c - 1 copies in the same shard. None with fewer than 2 shards, and if
        no images are flagged, or all.
        """
        if self.shards < 2 or not 0 < self.flagged < self.images:
            return None
        return max(1.0, self._chi_square / (self.shards - 1))

    @property
    def clustered(self) -> bool:
        """Whether the design effect is above 2 and not by chance (chi-square test, level 0.01)."""
        design = self.design
        if design is None or design <= _CLEAR_DESIGN:
            return False
        from scipy.stats import chi2

        return float(chi2.sf(self._chi_square, self.shards - 1)) < _CHANCE

    @property
    def _chi_square(self) -> float:
        share = self.flagged / self.images
        return (self.squares - self.flagged * share) / (share * (1 - share))


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
    from scipy.stats import hypergeom

    n = group.calibration_images
    return float(hypergeom.sf(rank - 1, group.images + n, n, count + rank))


def flags_to_expect(groups: Sequence[Group], design: float = 1.0) -> Interval:
    """The 95 % prediction interval of the number of flags if all images are like the calibration images.

    Args:
      groups: of the images; with more than one, the sum's distribution is drawn (10,000 draws, fixed seed).
      design: design effect, at least 1.
    """
    groups, tail = _occupied(groups), (1 - CONFIDENCE) / 2
    if not groups:
        return Interval(0, 0)
    if len(groups) > 1:
        low, high = _draws(groups, design, lowest=True), _draws(groups, design, lowest=False)
        return Interval(int(low[int(tail * _DRAWS) - 1]), math.ceil(high[-int(tail * _DRAWS)]))
    group, weight = _thinned(groups[0], design)
    rank = _lowest_rank(group)
    low = _smallest(lambda m: flags_at_most(m, group, rank) > tail, group.images)
    high = _smallest(lambda m: flags_at_most(m, group) >= 1 - tail, group.images)
    return Interval(math.floor(weight * low), math.ceil(weight * high))


def unlike_at_least(groups: Sequence[Group], flagged: int, design: float = 1.0) -> int:
    """A 95 % lower bound of the number of images, flagged or not, that were not drawn like the calibration images.

    It is L = min{m : P(F0 >= F - m | N0 = N - m) > 0.05}. If m images are unlike, at most m of the F flags are theirs,
    so that F0 >= F - m. Another image among the unlike ones lowers F - m by 1 and F0 by at most 1: the probability
    grows with m. With several groups it is not known which of them the m images are in, and N0 stays N.

    Args:
      groups: of the images.
      flagged: F, in all groups.
      design: design effect, at least 1.
    """
    groups = _occupied(groups)
    if not groups:
        return 0
    if len(groups) > 1:
        like = _draws(groups, design, lowest=False)[-int((1 - CONFIDENCE) * _DRAWS)]
        return max(0, flagged - math.ceil(like))
    group, weight = _thinned(groups[0], design)
    flagged = math.floor(flagged / weight)

    def enough(m: int) -> bool:
        rest = replace(group, images=group.images - m)
        return 1 - flags_at_most(flagged - m - 1, rest) > 1 - CONFIDENCE

    return math.floor(weight * _smallest(enough, flagged))


def _occupied(groups: Sequence[Group]) -> list[Group]:
    return [group for group in groups if group.images]


def _thinned(group: Group, design: float) -> tuple[Group, float]:
    """The group with as many images as it has independent ones, and how many images each of these stands for."""
    independent = max(1, math.floor(group.images / design))
    return replace(group, images=independent), group.images / independent


def _lowest_rank(group: Group) -> int:
    return group.below if group.tied else group.below + 1


def _smallest(holds: Callable[[int], bool], highest: int) -> int:
    """The smallest number from 0 to `highest` from which on a condition holds; it is taken to hold at `highest`."""
    low, high = 0, highest
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle + 1, high)
    return low


def _draws(groups: Sequence[Group], design: float, lowest: bool) -> np.ndarray:
    """Sums over the groups of their numbers of flags, float64 [_DRAWS], ascending."""
    rng, sums = np.random.default_rng(0), np.zeros(_DRAWS)
    for group, weight in (_thinned(group, design) for group in groups):
        rank, n = _lowest_rank(group) if lowest else group.below + 1, group.calibration_images
        if rank:
            sums += weight * rng.binomial(group.images, rng.beta(rank, n + 1 - rank, _DRAWS))
    return np.sort(sums)
