"""Decides which images are flagged: by threshold or by false discovery rate."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from odin_beam.transforms.calibration.conformal import CalibrationScores
from odin_beam.transforms.calibration.expected_flags import Group


@dataclass(frozen=True, eq=False)
class FlagRule:
    """Which images are flagged.

        >>> calibration = odin_beam.read_calibration("calibration.json")
        >>> rule = odin_beam.FlagRule("odin", calibration.scores["odin"], {}, tpr=0.95)
        >>> rule.p_values(np.array([0.0, 1.0]), np.array([0, 0])).round(4)
        array([0.0099, 1.    ])

    Attributes:
      detector: column of the scores files.
      calibration: the detector's in-distribution scores; with `by_class`, those of all other classes together. None
        if these are too few: images of such classes then have neither p-value nor flag.
      by_class: its in-distribution scores by predicted class, used instead of `calibration` for the classes present.
      tpr: flags the scores below the threshold of this true positive rate, in (0, 1); None with `fdr`.
      fdr: flags by Benjamini and Hochberg's rule at this false discovery rate, in (0, 1); None with `tpr`.
    """

    detector: str
    calibration: CalibrationScores | None
    by_class: Mapping[int, CalibrationScores]
    tpr: float | None = None
    fdr: float | None = None

    def p_values(self, scores: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Conformal p-values, each against the calibration scores for the predicted class.

        Args:
          scores: float [N]; NaN if missing.
          predictions: int [N].

        Returns:
          float64 [N], in (0, 1], NaN without a score or without calibration scores to compare it with.
        """
        p_values = np.full(len(scores), np.nan)
        for calibration, rows in self._groups(predictions):
            rows = rows & np.isfinite(scores)
            p_values[rows] = calibration.p_values(scores[rows])
        return p_values

    def flagged(
        self, scores: np.ndarray, predictions: np.ndarray, p_values: np.ndarray, largest_p: float | None
    ) -> np.ndarray:
        """Which images are flagged, bool [N]; False without a p-value.

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

    def groups(self, images: int, class_images: Mapping[int, int]) -> list[Group]:
        """Images by the threshold for `tpr` that they are compared with.

        Args:
          images: number of images with a p-value.
          class_images: predicted class -> how many of them it has, for the classes in `by_class`.
        """
        parts = [(self.by_class[predicted], count) for predicted, count in sorted(class_images.items())]
        if self.calibration is not None:
            parts.append((self.calibration, images - sum(class_images.values())))
        return [Group(count, scores.count, *scores.below_threshold(self.tpr)) for scores, count in parts if count]

    def _groups(self, predictions: np.ndarray) -> Iterable[tuple[CalibrationScores, np.ndarray]]:
        """Calibration scores, and the rows (bool [N]) they apply to; no row is in two groups."""
        rest = np.ones(len(predictions), bool)
        for predicted in np.unique(predictions).tolist() if self.by_class else ():
            if scores := self.by_class.get(predicted):
                rows = predictions == predicted
                rest &= ~rows
                yield scores, rows
        if self.calibration is not None:
            yield self.calibration, rest
