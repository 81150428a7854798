"""Decides which images are flagged: by threshold or by false discovery rate."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from odin_beam.transforms.calibration.conformal import CalibrationScores


@dataclass(frozen=True, eq=False)
class FlagRule:
    """Which images are flagged.

        >>> calibration = odin_beam.read_calibration("calibration.json")
        >>> rule = odin_beam.FlagRule("odin", calibration.scores["odin"], {}, tpr=0.95)
        >>> rule.p_values(np.array([0.0, 1.0]), np.array([0, 0])).round(4)
        array([0.0099, 1.    ])

    Attributes:
      detector: column of the scores files.
      calibration: the detector's in-distribution scores.
      by_class: its in-distribution scores by predicted class, used instead of `calibration` for the classes present.
      tpr: flags the scores below the threshold of this true positive rate, in (0, 1); None with `fdr`.
      fdr: flags by Benjamini and Hochberg's rule at this false discovery rate, in (0, 1); None with `tpr`.
    """

    detector: str
    calibration: CalibrationScores
    by_class: Mapping[int, CalibrationScores]
    tpr: float | None = None
    fdr: float | None = None

    def p_values(self, scores: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Conformal p-values, each against the calibration scores for the predicted class.

        Args:
          scores: float [N]; NaN if missing.
          predictions: int [N].

        Returns:
          float64 [N], in (0, 1], NaN without a score.
        """
        p_values = np.full(len(scores), np.nan)
        for calibration, rows in self._groups(predictions):
            rows = rows & np.isfinite(scores)
            p_values[rows] = calibration.p_values(scores[rows])
        return p_values

    def flagged(
        self, scores: np.ndarray, predictions: np.ndarray, p_values: np.ndarray, largest_p: float | None
    ) -> np.ndarray:
        """Which images are flagged, bool [N]; False without a score.

        Args:
          scores: as in `p_values`.
          predictions: as in `p_values`.
          p_values: of these images.
          largest_p: the largest p-value to flag; None flags by threshold.
        """
        if largest_p is not None:
            return p_values <= largest_p
        flags = np.zeros(len(scores), bool)
        for calibration, rows in self._groups(predictions):
            flags |= rows & (scores < calibration.threshold(self.tpr))
        return flags

    def false_flags(self, predictions: np.ndarray) -> tuple[float, float, float]:
        """How many of these images the thresholds for `tpr` flag if all are in-distribution.

        Returns:
          (expected number, lower and upper end of a 95 % interval; wider than that with several classes).
        """
        totals = np.zeros(3)
        for calibration, rows in self._groups(predictions):
            expected, low, high = calibration.realised_tpr(self.tpr)
            totals += np.count_nonzero(rows) * (1 - np.array([expected, high, low]))
        return tuple(totals.tolist())

    def _groups(self, predictions: np.ndarray) -> Iterable[tuple[CalibrationScores, np.ndarray]]:
        """Calibration scores, and the rows (bool [N]) they apply to; every row is in one group."""
        rest = np.ones(len(predictions), bool)
        for predicted in np.unique(predictions).tolist() if self.by_class else ():
            if scores := self.by_class.get(predicted):
                rows = predictions == predicted
                rest &= ~rows
                yield scores, rows
        yield self.calibration, rest
