"""How well scores tell in- from out-of-distribution images, computed from two `ScoreHistogram`s.

In-distribution is the positive class, and a high score means in-distribution. Metrics that say `out` take
out-of-distribution as positive, with the scores negated.

From exact histograms the metrics are those of the scores themselves and agree with scikit-learn. From histograms that
have dropped bits, a metric's value takes each bin for one tie, and comes with bounds that hold the value of the scores
themselves, whatever their order within the bins (up to the rounding of float64).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from odin_beam.transforms.metrics.score_histogram import ScoreHistogram, common_bins
from odin_beam.transforms.metrics.tpr_rank import tpr_rank

_TPR = 0.95


@dataclass(frozen=True)
class DetectionMetrics:
    """The metrics of one detector on one pair of sources; all but the thresholds are shares in [0, 1].

        >>> inside, outside = (odin_beam.ScoreHistogram.of(scores) for scores in ([3.0, 4.0, 5.0], [1.0, 2.0, 3.5]))
        >>> sorted(odin_beam.detection_metrics(inside, outside).bounds)[:2]
        ['aupr_in', 'aupr_in_trapezoid']

    Attributes:
      in_count: in-distribution scores.
      out_count: out-of-distribution scores.
      exact: whether both histograms are, so that every bound is a point.
      fpr_at_95_tpr: share of out-of-distribution scores that are at least `threshold_at_95_tpr`.
      detection_error: minimum over all thresholds of `0.5 (1 - TPR) + 0.5 FPR` (Liang et al. 2018).
      auroc: share of (in, out) pairs that are in the right order, a tie counting one half.
      aupr_in: average precision, as `sklearn.metrics.average_precision_score`.
      aupr_out: the same with out-of-distribution positive.
      threshold_at_95_tpr: the largest threshold with TPR >= 0.95.
      fpr_at_95_tpr_out_positive: share of in-distribution scores that are at most t, the smallest score such that 95 %
        of the out-of-distribution scores are at most t.
      aupr_in_trapezoid: area under linear interpolation, `sklearn.metrics.auc` of `precision_recall_curve`.
      aupr_out_trapezoid: the same with out-of-distribution positive.
      bounds: (low, high) of each metric above, by its name.
    """

    in_count: int
    out_count: int
    exact: bool
    fpr_at_95_tpr: float
    detection_error: float
    auroc: float
    aupr_in: float
    aupr_out: float
    threshold_at_95_tpr: float
    fpr_at_95_tpr_out_positive: float
    aupr_in_trapezoid: float
    aupr_out_trapezoid: float
    bounds: dict[str, tuple[float, float]]

    def as_dict(self) -> dict[str, Any]:
        """The entry of `metrics.json`: plain numbers, and bounds as lists."""
        return asdict(self) | {"bounds": {name: list(bounds) for name, bounds in self.bounds.items()}}


def detection_metrics(in_histogram: ScoreHistogram, out_histogram: ScoreHistogram) -> DetectionMetrics:
    """All metrics of in-distribution against out-of-distribution scores.

        >>> inside, outside = (odin_beam.ScoreHistogram.of(scores) for scores in ([3.0, 4.0, 5.0], [1.0, 2.0, 3.5]))
        >>> round(odin_beam.detection_metrics(inside, outside).auroc, 3)
        0.889

    Raises:
      ValueError: one side holds no scores.
    """
    for side, histogram in (("in", in_histogram), ("out-of", out_histogram)):
        if histogram.count == 0:
            raise ValueError(f"no {side}-distribution scores: detection metrics need both sides")
    bins = common_bins(in_histogram, out_histogram)
    sides = _Sides(
        in_histogram,
        _Ranking.of(bins.in_counts[::-1], bins.out_counts[::-1]),
        _Ranking.of(bins.out_counts, bins.in_counts),
    )
    estimates = {name: metric.compute(sides) for name, metric in METRICS.items()}
    exact = in_histogram.exact and out_histogram.exact
    return DetectionMetrics(
        in_count=in_histogram.count,
        out_count=out_histogram.count,
        exact=exact,
        **{name: estimate.value for name, estimate in estimates.items()},
        bounds={name: estimate.bounds(exact) for name, estimate in estimates.items()},
    )


def roc_curve(in_histogram: ScoreHistogram, out_histogram: ScoreHistogram, points: int) -> dict[str, list[float]]:
    """The receiver operating characteristic, in-distribution positive, thinned to a drawable number of points.

    Args:
      in_histogram: not empty.
      out_histogram: not empty.
      points: about how many are kept: half of them evenly along the curve, half evenly in the logarithm of the FPR, so
        that either scale shows it.

    Returns:
      `fpr` and `tpr`, ascending from (0, 0) to (1, 1).
    """
    bins = common_bins(in_histogram, out_histogram)
    ranking = _Ranking.of(bins.in_counts[::-1], bins.out_counts[::-1])
    tpr = np.concatenate([[0.0], ranking.tp / ranking.tp[-1]])
    fpr = np.concatenate([[0.0], ranking.fp / ranking.fp[-1]])
    if len(fpr) > points:
        along = np.searchsorted(fpr + tpr, np.linspace(0, 2, points // 2))
        logarithmic = np.searchsorted(fpr, np.geomspace(1 / ranking.fp[-1], 1, points // 2))
        kept = np.unique(np.clip(np.concatenate([[0], along, logarithmic, [len(fpr) - 1]]), 0, len(fpr) - 1))
        fpr, tpr = fpr[kept], tpr[kept]
    return {"fpr": fpr.tolist(), "tpr": tpr.tolist()}


def auroc_of_counts(in_counts: np.ndarray, out_counts: np.ndarray) -> float:
    """AUROC of scores that are given as counts of the same ascending values, int64 [B] each; a tie counts one half."""
    return _auroc(_Ranking.of(in_counts[::-1], out_counts[::-1])).value


def fpr_at_95_tpr_of_counts(in_counts: np.ndarray, out_counts: np.ndarray) -> float:
    """FPR at the largest threshold with TPR >= 0.95, of scores given as in `auroc_of_counts`."""
    return _fpr_at_95_tpr(_Ranking.of(in_counts[::-1], out_counts[::-1])).value


def threshold_at_tpr(histogram: ScoreHistogram, tpr: float = _TPR) -> float:
    """The largest threshold that at least a share `tpr` of the scores reaches.

    It is the score of rank `ceil(tpr * count)` from the top or, where the histogram has dropped bits, the smallest
    score of that score's bin.

    Args:
      histogram: in-distribution scores.
      tpr: in (0, 1], taken as the decimal that it prints as.

    Raises:
      ValueError: the histogram is empty, or `tpr` is out of range.
    """
    return _threshold_at_tpr(histogram, tpr).value


class _Estimate(NamedTuple):
    """A metric's value with each bin taken for a tie, and what it can be over all orders within the bins."""

    value: float
    low: float
    high: float

    def bounds(self, exact: bool) -> tuple[float, float]:
        """The interval, widened to hold the value despite rounding; where bins are ties, the value alone."""
        return (self.value, self.value) if exact else (min(self.low, self.value), max(self.high, self.value))


@dataclass(frozen=True, eq=False)
class _Ranking:
    """Counts by bin, from the most to the least positive score; int64 [B] each.

    With a threshold below the bin, `tp` positives and `fp` negatives are accepted; with one above it, `tp_above` and
    `fp_above`.
    """

    positives: np.ndarray
    negatives: np.ndarray
    tp_above: np.ndarray
    fp_above: np.ndarray
    tp: np.ndarray
    fp: np.ndarray

    @classmethod
    def of(cls, positives: np.ndarray, negatives: np.ndarray) -> Self:
        tp, fp = np.cumsum(positives), np.cumsum(negatives)
        return cls(positives, negatives, tp - positives, fp - negatives, tp, fp)

    def mean_over_positives(self, totals: np.ndarray) -> float:
        """A quantity that every positive has, from its sums by bin, float64 [B]."""
        return float(np.sum(totals) / self.tp[-1])


def _precision(tp: np.ndarray, fp: np.ndarray) -> np.ndarray:
    """`tp / (tp + fp)`, and 1 where nothing is accepted, as in scikit-learn."""
    return np.divide(tp, tp + fp, out=np.ones(len(tp)), where=tp + fp > 0)


def _threshold_at_tpr(histogram: ScoreHistogram, tpr: float) -> _Estimate:
    bins = histogram.bins()
    if len(bins.counts) == 0:
        raise ValueError("no scores to take a threshold from")
    accepted = np.cumsum(bins.counts[::-1])
    index = -1 - int(np.searchsorted(accepted, tpr_rank(tpr, int(accepted[-1]))))
    lower, upper = float(bins.lower[index]), float(bins.upper[index])
    return _Estimate(lower, lower, upper)


def _fpr_at_95_tpr(ranking: _Ranking) -> _Estimate:
    """The threshold lies somewhere in the bin that holds the positive of that rank."""
    index = int(np.searchsorted(ranking.tp, tpr_rank(_TPR, int(ranking.tp[-1]))))
    low = float(ranking.fp_above[index] / ranking.fp[-1])
    high = float(ranking.fp[index] / ranking.fp[-1])
    return _Estimate(high, low, high)


def _detection_error(ranking: _Ranking) -> _Estimate:
    """At best a bin's positives all lie above its negatives; at worst no threshold within a bin is of use."""
    fnr = (ranking.tp[-1] - ranking.tp) / ranking.tp[-1]
    # Accepting nothing costs one half, as does accepting everything, which the last bin stands for.
    value = float(np.min(fnr + ranking.fp / ranking.fp[-1]) / 2)
    low = float(np.min(fnr + ranking.fp_above / ranking.fp[-1]) / 2)
    return _Estimate(value, low, value)


def _auroc(ranking: _Ranking) -> _Estimate:
    """All pairs within a bin are in the wrong order, or all are in the right one."""
    # float64 because the number of pairs can exceed int64.
    positives, pairs = ranking.positives.astype(np.float64), float(ranking.tp[-1]) * float(ranking.fp[-1])
    low = float(positives @ (ranking.fp[-1] - ranking.fp) / pairs)
    high = float(positives @ (ranking.fp[-1] - ranking.fp_above) / pairs)
    return _Estimate((low + high) / 2, low, high)


def _average_precision(ranking: _Ranking) -> _Estimate:
    """Average precision is the mean over the positives of the precision at each one's score.

    Within a bin that is at most the precision with all the bin's positives and none of its negatives accepted, reached
    when the positives tie above the negatives. It is least when the positives follow the negatives one by one: with
    T = tp_above and F = fp, sum over k = 1 .. P of (T + k) / (T + k + F) = P - F sum 1 / (T + F + k). As 1/x is convex,
    the last sum is at most its integral from T + F + 1/2 to T + F + P + 1/2.
    """
    r = ranking
    value = r.positives * _precision(r.tp, r.fp)
    low = r.positives - r.fp * np.log1p(r.positives / (r.tp_above + r.fp + 0.5))
    high = r.positives * _precision(r.tp, r.fp_above)
    return _Estimate(*(r.mean_over_positives(totals) for totals in (value, low, high)))


def _trapezoid(ranking: _Ranking) -> _Estimate:
    """Area under the precision-recall curve, interpolated linearly between ties.

    With a fixed number F of negatives accepted, precision (T + k) / (T + k + F) is concave in k, the positives accepted
    within the bin. So the area is least when all the bin's negatives come first and its positives tie, one trapezoid;
    and it is at most the integral over k from 0 to P with none of the bin's negatives accepted,
    P - F log(1 + P / (T + F)), T = tp_above, F = fp_above.
    """
    r = ranking
    value = r.positives * (_precision(r.tp_above, r.fp_above) + _precision(r.tp, r.fp)) / 2
    low = r.positives * (_precision(r.tp_above, r.fp) + _precision(r.tp, r.fp)) / 2
    # Where T + F is 0, so is F.
    high = r.positives - r.fp_above * np.log1p(r.positives / np.maximum(r.tp_above + r.fp_above, 1))
    return _Estimate(*(r.mean_over_positives(totals) for totals in (value, low, high)))


class _Sides(NamedTuple):
    """What a metric is computed from.

    Attributes:
      inside: in-distribution scores.
      in_first: ranking with in-distribution positive.
      out_first: ranking with out-of-distribution positive.
    """

    inside: ScoreHistogram
    in_first: _Ranking
    out_first: _Ranking


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
      compute: what gives it.
      short: title of its column where metrics are shown, empty for one that is only written; shown metrics are shares.
      lower_is_better: else higher is.
    """

    compute: Callable[[_Sides], _Estimate]
    short: str = ""
    lower_is_better: bool = False

    @property
    def shown(self) -> bool:
        """Whether tables and the report show it."""
        return bool(self.short)


# By name, as `DetectionMetrics` has them: a metric is a function, a field there and a row here.
METRICS = {
    "fpr_at_95_tpr": Metric(lambda sides: _fpr_at_95_tpr(sides.in_first), "FPR@95TPR", lower_is_better=True),
    "detection_error": Metric(lambda sides: _detection_error(sides.in_first), "det. error", lower_is_better=True),
    "auroc": Metric(lambda sides: _auroc(sides.in_first), "AUROC"),
    "aupr_in": Metric(lambda sides: _average_precision(sides.in_first), "AUPR-In"),
    "aupr_out": Metric(lambda sides: _average_precision(sides.out_first), "AUPR-Out"),
    "threshold_at_95_tpr": Metric(lambda sides: _threshold_at_tpr(sides.inside, _TPR)),
    "fpr_at_95_tpr_out_positive": Metric(lambda sides: _fpr_at_95_tpr(sides.out_first)),
    "aupr_in_trapezoid": Metric(lambda sides: _trapezoid(sides.in_first)),
    "aupr_out_trapezoid": Metric(lambda sides: _trapezoid(sides.out_first)),
}
