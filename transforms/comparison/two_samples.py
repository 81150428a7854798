"""How far the scores of a new batch lie from those of a reference batch: AUROC and Kolmogorov-Smirnov, with intervals.

    bins = common_bins(reference_histogram, new_histogram)
    auroc_effect(bins, level=0.05), ks_effect(bins, level=0.05)

If every bin is one score, the figures are those of the scores themselves; otherwise bins count as ties, and the
intervals allow for whatever order the scores have within their bins.
"""

import math
from typing import NamedTuple

import numpy as np

from odin_beam.transforms.calibration.conformal import CalibrationScores
from odin_beam.transforms.comparison.verdicts import Effect
from odin_beam.transforms.metrics.score_histogram import Bins, CommonBins

# Of AUROC from one half, and of D from 0: a smaller move is not relevant. A share s of foreign images moves AUROC by
# s / 2 at most, and D by s at most.
AUROC_LIMIT, KS_LIMIT = 0.05, 0.1


class DeLong(NamedTuple):
    """AUROC and the two parts of its variance.

    Attributes:
      auroc: share of (reference, new) pairs in which the reference's score is higher; a tie counts one half.
      reference_variance: of the placements of the reference's images, S10 in DeLong et al.; NaN with one image.
      new_variance: of the placements of the new images, S01; NaN with one image.
    """

    auroc: float
    reference_variance: float
    new_variance: float


def delong(reference: np.ndarray, new: np.ndarray) -> DeLong:
    """AUROC of reference against new, and the parts of its variance (DeLong, DeLong and Clarke-Pearson 1988).

    The placement of an image is the share of the other batch's images that it is on the right side of, ties one half.
    AUROC's variance is `reference_variance / n + new_variance / m`.

    Args:
      reference: counts by bin, int64 [B], of n >= 1 images.
      new: counts by bin, int64 [B], of m >= 1 images.
    """
    n, m = int(reference.sum()), int(new.sum())
    of_reference = (np.cumsum(new) - new / 2) / m
    of_new = 1 - (np.cumsum(reference) - reference / 2) / n
    auroc = float(of_reference @ reference / n)
    parts = ((of_reference, reference, n), (of_new, new, m))
    variances = [
        float((at - auroc) ** 2 @ counts / (count - 1)) if count > 1 else math.nan for at, counts, count in parts
    ]
    return DeLong(auroc, *variances)


def auroc_effect(bins: CommonBins, level: float) -> Effect:
    """AUROC of reference against new with DeLong's interval; above one half if the new images score lower.

    Two precautions for few images, which vanish with more: Student's t with min(n, m) - 1 degrees of freedom takes the
    place of the normal quantile, and neither end is nearer to 0 or 1 than min(n, m) images can tell, by the exact
    bound for complete separation (Clopper and Pearson 1934).

    Args:
      bins: of the reference's histogram and the new one, neither empty.
      level: share of intervals that may miss the true AUROC.
    """
    # Imported here, since it takes most of a second and a mistake in a command is to show before.
    from scipy.special import ndtri, stdtrit

    reference, new, wide = bins.in_counts, bins.out_counts, bins.lower < bins.upper
    value, *variances = delong(reference, new)
    sizes = int(reference.sum()), int(new.sum())
    fewest = min(sizes)
    if fewest < 2:
        return Effect(value, 0.0, 1.0, 0.5, AUROC_LIMIT, math.inf)
    half = float(stdtrit(fewest - 1, 1 - level / 2)) * math.sqrt(variances[0] / sizes[0] + variances[1] / sizes[1])
    told = (level / 2) ** (1 / fewest)
    low, high = max(0.0, min(value - half, told * value)), min(1.0, max(value + half, 1 - told * (1 - value)))
    width = float(ndtri(1 - level / 2)) ** 2 * sum(variances)
    # Within a bin, all pairs may be in the right order, or all in the wrong one.
    slack = float(reference[wide].astype(np.float64) @ new[wide]) / sizes[0] / sizes[1] / 2
    return Effect(value, low, high, 0.5, AUROC_LIMIT, width).widened(slack)


def ks_effect(bins: CommonBins, level: float) -> Effect:
    """D of Kolmogorov-Smirnov, the largest difference of the two distribution functions, with its interval.

    The interval is D +- (sqrt(ln(4/a) / 2n) + sqrt(ln(4/a) / 2m)), a = `level`: both distribution functions lie within
    these distances of the true ones with probability 1 - a (Massart 1990), whatever they are.

    Args:
      bins: of the reference's histogram and the new one, of n and m images, neither 0.
      level: share of intervals that may miss the true D.
    """
    reference, new, wide = bins.in_counts, bins.out_counts, bins.lower < bins.upper
    n, m = int(reference.sum()), int(new.sum())
    of_reference, of_new = np.cumsum(reference) / n, np.cumsum(new) / m
    value = float(np.abs(of_reference - of_new).max())
    # Within a bin, one of the two may grow before the other does.
    apart = (of_reference - (of_new - new / m))[wide], (of_new - (of_reference - reference / n))[wide]
    within = float(np.concatenate(apart).max(initial=value))
    half = math.sqrt(math.log(4 / level) / 2 / n) + math.sqrt(math.log(4 / level) / 2 / m)
    effect = Effect(value, max(0.0, value - half), min(1.0, value + half), 0.0, KS_LIMIT, 2 * math.log(4 / level))
    return effect.widened(within - value)


def shard_against_rest(reference: CalibrationScores, shard: Bins) -> tuple[float, float] | None:
    """AUROC and D of all other scores of the reference against those of one shard; None if there are no others.

    Args:
      reference: the scores of all shards, that shard's included, one step per bin.
      shard: the bins of its scores, at least one; no coarser than those of all shards.
    """
    images = int(shard.counts.sum())
    rest = reference.count - images
    if rest < 1:
        return None
    bins, first = np.unique(np.searchsorted(reference.steps, shard.lower, side="right") - 1, return_index=True)
    counts = np.add.reduceat(shard.counts, first)
    own = np.cumsum(counts)
    at_most = reference.at_most[bins] - own
    below = np.where(bins > 0, reference.at_most[bins - 1], 0) - (own - counts)
    # Between the shard's bins only the rest's distribution function grows, so D is reached at one or just before it.
    after = np.abs(at_most / rest - own / images)
    before = np.abs(below / rest - (own - counts) / images)
    auroc = float((rest - (at_most + below) / 2) @ counts / images / rest)
    return auroc, float(max(after.max(), before.max()))
