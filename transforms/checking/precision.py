"""Whether mixed precision gives the scores of float32, compared on a few images."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from odin_beam.transforms.detectors.score_function import ScoreFunction
from odin_beam.transforms.scoring.scorer import Scorer
from odin_beam.transforms.scoring.settings import ScoreSettings

# Detectors whose order is compared: one of perturbed images, one of probabilities, one of logits.
_COMPARED = ("odin", "msp", "energy")
# The lowest rank correlation, and the largest share of other predictions, with which it is taken for the same.
MIN_RANK_CORRELATION = 0.95
MAX_CHANGED = 0.05


@dataclass(frozen=True)
class PrecisionDifference:
    """How mixed precision differs from float32.

    Attributes:
      images: how many were compared.
      changed: images with another prediction.
      rank_correlations: Spearman's, by column; NaN where all scores are equal.
    """

    images: int
    changed: int
    rank_correlations: dict[str, float]

    @property
    def is_small(self) -> bool:
        known = [value for value in self.rank_correlations.values() if not np.isnan(value)]
        return self.changed <= MAX_CHANGED * self.images and all(value >= MIN_RANK_CORRELATION for value in known)


def compare_precisions(scorer: Scorer, pixels: np.ndarray, settings: ScoreSettings) -> PrecisionDifference:
    """Scores images in mixed precision and in float32.

    Args:
      scorer: in mixed precision.
      pixels: float32 [N, H, W, C] in [0, 1], N >= 1.
      settings: of the scorer.
    """
    compared = tuple(name for name in settings.detectors if name in _COMPARED)
    exact = ScoreFunction(scorer.classifier, settings.odin, compared)(pixels).columns
    mixed = scorer.score(pixels).scored.columns
    columns = [name for name in exact if name in _COMPARED or name.startswith("odin_T")]
    return PrecisionDifference(
        len(pixels),
        int(np.sum(exact["prediction"] != mixed["prediction"])),
        {name: _rank_correlation(exact[name], mixed[name]) for name in columns},
    )


def _rank_correlation(exact: np.ndarray, mixed: np.ndarray) -> float:
    known = np.isfinite(exact) & np.isfinite(mixed)
    if known.sum() < 3 or not np.ptp(exact[known]) or not np.ptp(mixed[known]):
        return float("nan")
    return float(stats.spearmanr(exact[known], mixed[known]).statistic)
