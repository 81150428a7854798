"""In-distribution scores by predicted class."""

from collections.abc import Mapping

import numpy as np

from odin_beam.transforms.calibration.choose_detector import FEW_IMAGES
from odin_beam.transforms.calibration.conformal import CalibrationScores
from odin_beam.transforms.calibration.grid_scores import SourceScores
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram


def class_scores(
    by_class: Mapping[str, Mapping[int, ScoreHistogram]],
) -> tuple[dict[str, dict[int, CalibrationScores]], dict[str, CalibrationScores]]:
    """The scores of each class of at least `FEW_IMAGES` images, and those of all other classes together.

    Images of the other classes are compared with these pooled scores and not with the scores of all classes: classes
    differ, and the many images of the frequent ones would decide what is unusual for the rare ones. The pooled scores
    cannot be taken from the others by subtraction, since long distributions are kept in steps, each its own.

    Args:
      by_class: detector -> predicted class -> in-distribution scores.

    Returns:
      (detector -> predicted class -> scores, detector -> pooled scores of the other classes; without the detectors for
      which these have fewer than `FEW_IMAGES` images).
    """
    own, rest = {}, {}
    for detector, classes in by_class.items():
        own[detector], pooled = {}, ScoreHistogram()
        for predicted, histogram in sorted(classes.items()):
            if histogram.count >= FEW_IMAGES:
                own[detector][predicted] = CalibrationScores.of(histogram)
            else:
                pooled.merge(histogram)
        if pooled.count >= FEW_IMAGES:
            rest[detector] = CalibrationScores.of(pooled)
    return own, rest


def scores_by_class(inside: SourceScores, names: Mapping[str, str]) -> dict[str, dict[int, ScoreHistogram]]:
    """Detector -> predicted class -> its in-distribution scores."""
    return {
        detector: {
            predicted: inside.histogram(column, inside.predictions == predicted)
            for predicted in np.unique(inside.predictions).tolist()
        }
        for detector, column in names.items()
    }
