"""How well scores separate in- from out-of-distribution images, computed from two `ScoreHistogram`s.

In-distribution is the positive class, and a high score means in-distribution. Metrics with `out` in their name take
out-of-distribution as positive, with the scores negated.

For exact histograms the metrics are those of the scores themselves and agree with scikit-learn. For histograms with
dropped bits, a metric's value treats each bin as a tie, and comes with bounds that contain the value of the scores
themselves, whatever their order within the bins (up to float64 rounding).
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
      in_count: number of in-distribution scores.
      out_count: number of out-of-distribution scores.
      exact: whether both histograms are exact, so that every bound is a point.
      fpr_at_95_tpr: share of out-of-distribution scores that are at least `threshold_at_95_tpr`.
      detection_error: minimum over all thresholds of `0.5 (1 - TPR) + 0.5 FPR` (Liang et al. 2018).
      auroc: share of (in, out) pairs in the right order; a tie counts one half.
      aupr_in: average precision, as in `sklearn.metrics.average_precision_score`.
      aupr_out: the same with out-of-distribution positive.
      threshold_at_95_tpr: the largest threshold with TPR >= 0.95.
      fpr_at_95_tpr_out_positive: share of in-distribution scores that are at most t, the smallest score such that 95 %
        of the out-of-distribution scores are at most t.
      aupr_in_trapezoid: area under linear interpolation, `sklearn.metrics.auc` of `precision_recall_curve`.
      aupr_out_trapezoid: the same with out-of-distribution positive.
      bounds: (low, high) for each metric above, by name.
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
    """All metrics of in-distribution versus out-of-distribution scores.

        >>> inside, outside = (odin_beam.ScoreHistogram.of(scores) for scores in ([3.0, 4.0, 5.0], [1.0, 2.0, 3.5]))
        >>> round(odin_beam.detection_metrics(inside, outside).auroc, 3)
        0.889

    Raises:
      ValueError: one side has no scores.
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
      points: about how many points to keep: half of them spaced evenly along the curve, half evenly in the logarithm
        of the FPR, so that the curve looks right on either scale.

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
    """AUROC of scores given as counts of the same ascending values, int64 [B] each; a tie counts one half."""
    return _auroc(_Ranking.of(in_counts[::-1], out_counts[::-1])).value


def fpr_at_95_tpr_of_counts(in_counts: np.ndarray, out_counts: np.ndarray) -> float:
    """FPR at the largest threshold with TPR >= 0.95, for scores given as in `auroc_of_counts`."""
    return _fpr_at_95_tpr(_Ranking.of(in_counts[::-1], out_counts[::-1])).value


def threshold_at_tpr(histogram: ScoreHistogram, tpr: float = _TPR) -> float:
    """The largest threshold that at least a share `tpr` of the scores reaches.

    It is the score of rank `ceil(tpr * count)` from the top or, if the histogram has dropped bits, the smallest score
    in that score's bin.

    Args:
      histogram: in-distribution scores.
      tpr: in (0, 1], taken as the decimal that it prints as.

    Raises:
      ValueError: the histogram is empty, or `tpr` is out of range.
    """
    return _threshold_at_tpr(histogram, tpr).value


class _Estimate(NamedTuple):
    """A metric's value with each bin treated as a tie, and its range over all orders within the bins."""

    value: float
    low: float
    high: float

    def bounds(self, exact: bool) -> tuple[float, float]:
        """The interval, widened to contain the value despite rounding; if bins are ties, only the value."""
        return (self.value, self.value) if exact else (min(self.low, self.value), max(self.high, self.value))


@dataclass(frozen=True, eq=False)
class _Ranking:
    """Counts by bin, from the most to the least positive score; int64 [B] each.

    A threshold below the bin accepts `tp` positives and `fp` negatives; a threshold above it accepts `tp_above` and
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
        """Mean over the positives of a quantity given by its sums by bin, float64 [B]."""
        return float(np.sum(totals) / self.tp[-1])


def _precision(tp: np.ndarray, fp: np.ndarray) -> np.ndarray:
    """`tp / (tp + fp)`, and 1 if nothing is accepted, as in scikit-learn."""
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
    """The threshold lies somewhere in the bin that contains the positive of that rank."""
    index = int(np.searchsorted(ranking.tp, tpr_rank(_TPR, int(ranking.tp[-1]))))
    low = float(ranking.fp_above[index] / ranking.fp[-1])
    high = float(ranking.fp[index] / ranking.fp[-1])
    return _Estimate(high, low, high)


def _detection_error(ranking: _Ranking) -> _Estimate:
    """At best, all of a bin's positives are above its negatives; at worst, no threshold within a bin helps."""
    fnr = (ranking.tp[-1] - ranking.tp) / ranking.tp[-1]
    # Accepting nothing costs one half, and so does accepting everything, which is the last bin's threshold.
    value = float(np.min(fnr + ranking.fp / ranking.fp[-1]) / 2)
    low = float(np.min(fnr + ranking.fp_above / ranking.fp[-1]) / 2)
    return _Estimate(value, low, value)


def _auroc(ranking: _Ranking) -> _Estimate:
    """All pairs within a bin are in the wrong order, or all are in the right order."""
    # float64 because the number of pairs can exceed int64.
    positives, pairs = ranking.positives.astype(np.float64), float(ranking.tp[-1]) * float(ranking.fp[-1])
    low = float(positives @ (ranking.fp[-1] - ranking.fp) / pairs)
    high = float(positives @ (ranking.fp[-1] - ranking.fp_above) / pairs)
    return _Estimate((low + high) / 2, low, high)


def _average_precision(ranking: _Ranking) -> _Estimate:
    """Average precision is the mean over the positives of the precision at each positive's score.

    Within a bin the precision is at most that with all the bin's positives and none of its negatives accepted, reached
    when the positives tie above the negatives. It is least when the positives follow the negatives without ties: with
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
    within the bin. So the area is least when all the bin's negatives come first and its positives tie, giving a single
    trapezoid; it is at most the integral over k from 0 to P with none of the bin's negatives accepted,
    P - F log(1 + P / (T + F)), T = tp_above, F = fp_above.
    """
    r = ranking
    value = r.positives * (_precision(r.tp_above, r.fp_above) + _precision(r.tp, r.fp)) / 2
    low = r.positives * (_precision(r.tp_above, r.fp) + _precision(r.tp, r.fp)) / 2
    # If T + F is 0, so is F.
    high = r.positives - r.fp_above * np.log1p(r.positives / np.maximum(r.tp_above + r.fp_above, 1))
    return _Estimate(*(r.mean_over_positives(totals) for totals in (value, low, high)))


class _Sides(NamedTuple):
    """The inputs of a metric.

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
      compute: the function that computes it.
      short: title of its column in tables; empty if it is only written to the file. Metrics in tables are shares.
      lower_is_better: otherwise higher is better.
    """

    compute: Callable[[_Sides], _Estimate]
    short: str = ""
    lower_is_better: bool = False

    @property
    def shown(self) -> bool:
        """Whether tables and the report show it."""
        return bool(self.short)


# By name, as in `DetectionMetrics`: a metric is a function, a field there and a row here.
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
