"""Chooses a cell from a grid of temperatures and epsilons, and measures how certain the choice is.

The best cell by the objective is chosen only if it beats the best cell without perturbation by more than chance: the
paired bootstrap interval of the gain must lie above 0. A perturbation costs three times the work.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from odin_beam.transforms.calibration.objectives import OBJECTIVES
from odin_beam.transforms.metrics.detection_metrics import detection_metrics
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram

if TYPE_CHECKING:
    from odin_beam.transforms.detectors.odin_settings import OdinGrid


# Resamples of the bootstrap, and the confidence level of its intervals.
RESAMPLES = 500
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Gain:
    """How much better one column is than another, in units of the objective; above 0 is better.

    Attributes:
      over: the other column.
      value: the difference.
      low: lower end of its interval.
      high: upper end of its interval.
    """

    over: str
    value: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low > 0


def cell_figures(inside: ScoreHistogram, outside: Sequence[ScoreHistogram]) -> dict[str, float]:
    """The objectives of one column.

    Args:
      inside: in-distribution scores, not empty.
      outside: scores of each other source; objectives are averaged over these, so that each source counts the same.
    """
    bins = inside.bins()
    middle = bins.lower + (bins.upper - bins.lower) / 2
    figures = {"mean_score": float(middle @ bins.counts / inside.count)}
    if outside:
        metrics = [detection_metrics(inside, other) for other in outside]
        for name, objective in OBJECTIVES.items():
            if objective.two_sided:
                figures[name] = float(np.mean([objective.of_metrics(metric) for metric in metrics]))
    return figures


def best_cells(
    grid: "OdinGrid", figures: Mapping[str, Mapping[str, float]], objective: str
) -> tuple[str | None, str | None]:
    """The best cell with epsilon above 0 and the best cell with epsilon 0; None if the grid has none.

    Of equal cells the first is taken, with the lowest temperature and the smallest epsilon.
    """
    sign = OBJECTIVES[objective].sign

    def best(names: list[str]) -> str | None:
        return max(names, key=lambda name: sign * figures[name][objective], default=None)

    cells = grid.cells
    return best([name for name in cells if cells[name].epsilon > 0]), best([n for n in cells if cells[n].epsilon == 0])


def choose(best: str | None, still: str | None, gain: Gain | None) -> str:
    """The chosen cell: the best one with a perturbation if it is certainly better than the best one without.

    Args:
      best: from `best_cells`.
      still: from `best_cells`.
      gain: of `best` over `still`, if both exist.
    """
    return still if best is None or (gain is not None and not gain.certain) else best


def at_edge(grid: "OdinGrid", cell_name: str) -> list[str]:
    """What to try next if a cell lies on the edge of the grid, so that the optimum may lie outside."""
    cell, hints = grid.cells[cell_name], []
    above = [epsilon for epsilon in grid.epsilons if epsilon > 0]
    for name, values, value in (
        ("temperature", grid.temperatures, cell.temperature),
        ("epsilon", above if cell.epsilon > 0 else [], cell.epsilon),
    ):
        if len(values) > 1 and value in (min(values), max(values)):
            where, direction = ("largest", "above") if value == max(values) else ("smallest", "below")
            hints.append(
                f"{value:g} is the {where} {name} of the grid: the optimum may lie {direction} it, so add values there"
            )
    return hints


class PairedScores:
    """The scores of the same images in several columns, for the bootstrap.

    Args:
      inside: column -> float64 [N], in-distribution, the same images in the same order in every column.
      outside: likewise, for each other source.
    """

    def __init__(self, inside: Mapping[str, np.ndarray], outside: Sequence[Mapping[str, np.ndarray]]):
        self._inside = inside
        self._in_count = len(next(iter(inside.values())))
        self._out_counts = [len(next(iter(source.values()))) for source in outside]
        # Ranks instead of scores: a resample is then only a new count of each rank.
        self._ranks = {
            column: [_ranks(scores, source[column]) for source in outside] for column, scores in inside.items()
        }

    def gain(self, column: str, other: str, objective: str, seed: int = 0) -> Gain:
        """How much better a column is than another, with the percentile interval of the paired bootstrap.

        Images are resampled within their source, the same images for both columns (Efron and Tibshirani 1993).
        """
        rng, sign = np.random.default_rng(seed), OBJECTIVES[objective].sign

        def difference(in_weights: np.ndarray, out_weights: list[np.ndarray]) -> float:
            figures = [self._figure(name, objective, in_weights, out_weights) for name in (column, other)]
            return sign * (figures[0] - figures[1])

        once = np.ones(self._in_count, np.int64), [np.ones(n, np.int64) for n in self._out_counts]
        resampled = [
            difference(_resample(rng, self._in_count), [_resample(rng, n) for n in self._out_counts])
            for _ in range(RESAMPLES)
        ]
        tail = 100 * (1 - CONFIDENCE) / 2
        return Gain(other, difference(*once), *np.percentile(resampled, [tail, 100 - tail]).tolist())

    def _figure(self, column: str, objective: str, in_weights: np.ndarray, out_weights: list[np.ndarray]) -> float:
        """A column's objective, with each image counted as many times as its weight."""
        if not OBJECTIVES[objective].two_sided:
            return float(self._inside[column] @ in_weights / in_weights.sum())
        of_counts = OBJECTIVES[objective].of_counts
        return float(
            np.mean(
                [
                    of_counts(_weighted(in_ranks, in_weights, size), _weighted(out_ranks, weights, size))
                    for (in_ranks, out_ranks, size), weights in zip(self._ranks[column], out_weights, strict=True)
                ]
            )
        )


def _ranks(inside: np.ndarray, outside: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    distinct, ranks = np.unique(np.concatenate([inside, outside]), return_inverse=True)
    return ranks[: len(inside)], ranks[len(inside) :], len(distinct)


def _resample(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.bincount(rng.integers(n, size=n), minlength=n)


def _weighted(ranks: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    return np.bincount(ranks, weights, size).astype(np.int64)
