"""When an image is flagged: by threshold or by false discovery rate."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from odin_beam.transforms.calibration.conformal import CalibrationScores


@dataclass(frozen=True, eq=False)
class FlagRule:
    """When an image is flagged.

        >>> calibration = odin_beam.read_calibration("calibration.json")
        >>> rule = odin_beam.FlagRule("odin", calibration.scores["odin"], {}, tpr=0.95)
        >>> rule.p_values(np.array([0.0, 1.0]), np.array([0, 0])).round(4)
        array([0.0099, 1.    ])

    Attributes:
      detector: column of the scores files.
      calibration: its in-distribution scores.
      by_class: its in-distribution scores by predicted class, used instead of `calibration` where a class has them.
      tpr: flags the scores below the threshold of this true positive rate, in (0, 1); None with `fdr`.
      fdr: flags by Benjamini and Hochberg's rule at this false discovery rate, in (0, 1); None with `tpr`.
    """

    detector: str
    calibration: CalibrationScores
    by_class: Mapping[int, CalibrationScores]
    tpr: float | None = None
    fdr: float | None = None

    def p_values(self, scores: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Conformal p-values, each against the calibration scores that count for the predicted class.

        Args:
          scores: float [N]; NaN where there is none.
          predictions: int [N].

        Returns:
          float64 [N], in (0, 1], NaN where there is no score.
        """
        found = np.full(len(scores), np.nan)
        for calibration, rows in self._groups(predictions):
            rows = rows & np.isfinite(scores)
            found[rows] = calibration.p_values(scores[rows])
        return found

    def flagged(
        self, scores: np.ndarray, predictions: np.ndarray, p_values: np.ndarray, largest_p: float | None
    ) -> np.ndarray:
        """Which images are flagged, bool [N]; False where there is no score.

        Args:
          scores: as in `p_values`.
          predictions: as in `p_values`.
          p_values: of these.
          largest_p: the largest p-value to flag; None flags by threshold.
        """
        if largest_p is not None:
            return p_values <= largest_p
        found = np.zeros(len(scores), bool)
        for calibration, rows in self._groups(predictions):
            found |= rows & (scores < calibration.threshold(self.tpr))
        return found

    def false_flags(self, predictions: np.ndarray) -> tuple[float, float, float]:
        """How many of these images the thresholds of `tpr` flag if all are in-distribution.

        Returns:
          (expected number, lower and upper end of a 95 % interval; with several classes a wider one).
        """
        totals = np.zeros(3)
        for calibration, rows in self._groups(predictions):
            expected, low, high = calibration.realised_tpr(self.tpr)
            totals += np.count_nonzero(rows) * (1 - np.array([expected, high, low]))
        return tuple(totals.tolist())

    def _groups(self, predictions: np.ndarray) -> Iterable[tuple[CalibrationScores, np.ndarray]]:
        """Calibration scores, and the rows (bool [N]) that they count for; every row is in one group."""
        rest = np.ones(len(predictions), bool)
        for predicted in np.unique(predictions).tolist() if self.by_class else ():
            if own := self.by_class.get(predicted):
                rows = predictions == predicted
                rest &= ~rows
                yield own, rows
        yield self.calibration, rest
