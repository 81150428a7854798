"""What `tune` can look for, one object each. Imports no TensorFlow."""

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
    """What a cell is judged by.

    Attributes:
      title: as figures and tables show it.
      unit: of a gain, in words.
      help: for the command line.
      higher_is_better: else lower is.
      of_metrics: takes the figure from detection metrics; None for an objective of in-distribution scores alone.
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
        """What a figure is multiplied by to be shown: shares are shown in percent."""
        return 100 if self.two_sided else 1

    @property
    def sign(self) -> int:
        """What a figure is multiplied by so that higher is better."""
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
    # Generalized ODIN (Hsu et al. 2020, https://arxiv.org/abs/2002.11297), for epsilon alone.
    "mean_score": Objective(
        "mean in-distribution score",
        "of mean score",
        "highest mean score of in-distribution images alone, for one temperature (with care: see docs/tuning.md)",
        higher_is_better=True,
    ),
}
