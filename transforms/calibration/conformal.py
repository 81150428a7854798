"""Conformal calibration: how unusual a score is among in-distribution scores, and what may be flagged for it.

* The conformal p-value of a score s is `(1 + #{calibration scores <= s}) / (n + 1)`. For an in-distribution image drawn
  like the calibration images it is at most u with probability at most u (Vovk et al. 2005).
* Flagging by Benjamini and Hochberg's rule over such p-values keeps the expected share of in-distribution images among
  the flagged at or below the requested level (Bates et al. 2023, https://arxiv.org/abs/2104.08279).

scipy.special takes most of a second to import, so it is imported where it is used: a mistake in a command shows before.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.metrics.tpr_rank import tpr_rank

# Maximum number of scores kept from a calibration. If there are more, half this number, the lowest ones, are kept
# exactly and the rest in steps of rank, so that scores near the threshold lose nothing.
MAX_STEPS = 4096
# True positive rates in the table of thresholds.
TPRS = (
    *(round(0.50 + 0.05 * i, 2) for i in range(8)),
    *(round(0.90 + 0.01 * i, 2) for i in range(9)),
    *(round(0.99 + 0.001 * i, 3) for i in range(9)),
    *(round(0.999 + 0.0001 * i, 4) for i in range(10)),
)
# Confidence level of the intervals of realised rates.
CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class CalibrationScores:
    """The distribution of a detector's in-distribution scores, as steps.

    Attributes:
      steps: float64 [S], ascending, S >= 1: the lowest score of each step.
      at_most: int64 [S], ascending: how many scores are in this step or a lower one.
    """

    steps: np.ndarray
    at_most: np.ndarray

    def __post_init__(self):
        if not (
            self.steps.shape == self.at_most.shape == (self.steps.size,) != (0,)
            and np.isfinite(self.steps).all()
            and (np.diff(self.steps) > 0).all()
            and (np.diff(self.at_most, prepend=0) > 0).all()
        ):
            raise ValueError("calibration scores are steps and counts, both ascending, at least one of each")

    @classmethod
    def of(cls, histogram: ScoreHistogram, max_steps: int = MAX_STEPS) -> Self:
        """The distribution of a histogram's scores.

        Raises:
          ValueError: the histogram is empty.
        """
        bins = histogram.bins()
        if not len(bins.counts):
            raise ValueError("no scores to calibrate with")
        last = np.arange(len(bins.counts))
        counts = np.cumsum(bins.counts)
        if len(last) > max_steps:
            exact = max_steps // 2
            ranks = np.linspace(counts[exact - 1], counts[-1], max_steps - exact + 1)[1:]
            last = np.unique(np.concatenate([last[:exact], np.searchsorted(counts, ranks)]))
        first = np.concatenate([[0], last[:-1] + 1])
        return cls(bins.lower[first], counts[last])

    @property
    def count(self) -> int:
        """n, the number of scores."""
        return int(self.at_most[-1])

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """Conformal p-values; if steps contain several scores, rounded up, by less than 0.1 % for most n.

        Args:
          scores: float [N], finite.

        Returns:
          float64 [N], in [1 / (n + 1), 1].
        """
        below = np.concatenate([[0], self.at_most])[np.searchsorted(self.steps, scores, side="right")]
        return (1 + below) / (1 + self.count)

    def threshold(self, tpr: float) -> float:
        """The largest step that at least a share `tpr` of the scores reaches; a lower score is flagged.

        Args:
          tpr: in (0, 1], taken as the decimal that it prints as.

        Raises:
          ValueError: `tpr` is out of range.
        """
        return float(self.steps[self._index(tpr)])

    def below_threshold(self, tpr: float) -> tuple[int, bool]:
        """How many scores are strictly below the threshold for `tpr`, and whether its step has more than one."""
        index = self._index(tpr)
        below = int(self.at_most[index - 1]) if index else 0
        return below, int(self.at_most[index]) - below > 1

    def realised_tpr(self, tpr: float) -> tuple[float, float, float]:
        """The true positive rate to expect on new in-distribution images, with the threshold for `tpr`.

        With k of n calibration scores at or above the threshold it follows Beta(k, n + 1 - k); ties make it larger.

        Returns:
          (expected rate, lower and upper end of the central 95 % interval).
        """
        from scipy.special import betaincinv

        below, _ = self.below_threshold(tpr)
        k, rest = self.count - below, below + 1
        tail = (1 - CONFIDENCE) / 2
        return k / (k + rest), float(betaincinv(k, rest, tail)), float(betaincinv(k, rest, 1 - tail))

    def _index(self, tpr: float) -> int:
        return int(np.searchsorted(self.at_most, self.count - tpr_rank(tpr, self.count), side="right"))

    def table(self) -> list[dict[str, Any]]:
        """Thresholds for `TPRS`, JSON-compatible: `tpr`, `threshold`, `expected_tpr`, `realised_tpr` (low, high)."""
        rows = []
        for tpr in TPRS:
            expected, low, high = self.realised_tpr(tpr)
            threshold = self.threshold(tpr)
            rows.append({"tpr": tpr, "threshold": threshold, "expected_tpr": expected, "realised_tpr": [low, high]})
        return rows

    def as_dict(self) -> dict[str, Any]:
        """The scores as JSON-compatible values."""
        return {"count": self.count, "steps": self.steps.tolist(), "at_most": self.at_most.tolist()}

    @classmethod
    def from_dict(cls, said: dict[str, Any]) -> Self:
        """Reads what `as_dict` wrote.

        Raises:
          KeyError, TypeError, ValueError: it is not the output of `as_dict`.
        """
        at_most = np.array(said["at_most"])
        if at_most.dtype != np.int64:
            raise ValueError("counts of calibration scores are whole numbers")
        return cls(np.array(said["steps"], np.float64), at_most)


def benjamini_hochberg(p_values: ScoreHistogram, fdr: float) -> float:
    """The largest p-value to flag by Benjamini and Hochberg's rule; 0 flags nothing.

    It is the largest p with `p <= fdr * #{p-values <= p} / m`, for m p-values in total. A bin with dropped bits counts
    as its largest p-value, so that the rule never flags more than it allows.

    Args:
      p_values: of all images to be judged, each in (0, 1].
      fdr: the false discovery rate to keep, in (0, 1).
    """
    bins = p_values.bins()
    passing = np.flatnonzero(bins.upper <= fdr * np.cumsum(bins.counts) / max(1, p_values.count))
    return float(bins.upper[passing[-1]]) if len(passing) else 0.0
