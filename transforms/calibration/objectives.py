"""The objectives of `tune`, one object each. Imports no TensorFlow."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from odin_beam.transforms.metrics.detection_metrics import (
    DetectionMetrics,
    auroc_of_counts,
    fpr_at_95_tpr_of_counts,
)


@dataclass(frozen=True)
class Objective:
    """The figure by which a cell is judged.

    Attributes:
      title: in figures and tables.
      unit: of a gain, in words.
      help: for the command line.
      higher_is_better: otherwise lower is better.
      of_metrics: takes the figure from detection metrics; None for an objective on in-distribution scores only.
      of_counts: the same from counts of the same ascending values, int64 [B] in- and out-of-distribution.
    """

    title: str
    unit: str
    help: str
    higher_is_better: bool
    of_metrics: Callable[[DetectionMetrics], float] | None = None
    of_counts: Callable[[np.ndarray, np.ndarray], float] | None = None

    @property
    def two_sided(self) -> bool:
        """Whether it compares in-distribution with other images."""
        return self.of_metrics is not None

    @property
    def factor(self) -> int:
        """Factor for displaying a figure: shares are shown in percent."""
        return 100 if self.two_sided else 1

    @property
    def sign(self) -> int:
        """Factor that makes higher figures better."""
        return 1 if self.higher_is_better else -1


OBJECTIVES = {
    "fpr_at_95_tpr": Objective(
        "FPR@95TPR, %",
        "points of FPR@95TPR",
        "lowest FPR at 95 % TPR",
        higher_is_better=False,
        of_metrics=lambda metrics: metrics.fpr_at_95_tpr,
        of_counts=fpr_at_95_tpr_of_counts,
    ),
    "auroc": Objective(
        "AUROC, %",
        "points of AUROC",
        "highest AUROC",
        higher_is_better=True,
        of_metrics=lambda metrics: metrics.auroc,
        of_counts=auroc_of_counts,
    ),
    # Generalized ODIN (Hsu et al. 2020, https://arxiv.org/abs/2002.11297), only for epsilon.
    "mean_score": Objective(
        "mean in-distribution score",
        "of mean score",
        "highest mean score of in-distribution images alone, for one temperature (with care: see docs/tuning.md)",
        higher_is_better=True,
    ),
}
