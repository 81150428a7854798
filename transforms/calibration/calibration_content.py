"""The content of `calibration.json`: the chosen cell, the recommended detector, and scores to compare others against.

Every figure comes from the written Parquet, as in `summarize_scores`.
"""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import Any, Self

import apache_beam as beam
import numpy as np

from odin_beam.transforms import __version__
from odin_beam.transforms.calibration.choose_cell import Gain, PairedScores, at_edge, best_cells, cell_figures, choose
from odin_beam.transforms.calibration.choose_detector import FEW_IMAGES, choose_detector, held_out_gains
from odin_beam.transforms.calibration.class_scores import class_scores, scores_by_class
from odin_beam.transforms.calibration.conformal import CalibrationScores
from odin_beam.transforms.calibration.grid_scores import SourceScores, read_grid_scores
from odin_beam.transforms.calibration.objectives import OBJECTIVES
from odin_beam.transforms.detectors.passes import Passes, PassTimes, expected_passes
from odin_beam.transforms.errors import CalibrationError
from odin_beam.transforms.metrics.counts import Counts
from odin_beam.transforms.scoring.own_reference import read_own_reference
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.shard import Shard

# From this accuracy on, the images may be those that the classifier was trained on.
SUSPICIOUS_ACCURACY = 0.995


@dataclass(frozen=True)
class CalibrateSettings:
    """Settings of a calibration.

    Attributes:
      score: settings of the run, with the grid.
      objective: one of `objectives.OBJECTIVES`.
      surrogates: whether surrogates replace out-of-distribution images.
      per_class: whether to include calibration scores by predicted class.
      output: absolute path of the calibration.
      times: measured at launch; None if nothing was left to score.
      discouraged: fitted detectors that are never recommended, see `Reference`.
    """

    score: ScoreSettings
    objective: str
    surrogates: bool
    per_class: bool
    output: str
    times: PassTimes | None
    discouraged: tuple[str, ...] = ()


def calibration_content(
    folder: str,
    settings: CalibrateSettings,
    roles: Mapping[str, str],
    counts: Mapping[str, Counts],
    shards: Sequence[Shard],
) -> dict[str, Any]:
    """The content of `calibration.json`, see `calibration_file`.

    One half of the images chooses the cell and the detector; the other gives their gains, thresholds and p-values.

    Args:
      folder: of the run.
      settings: of the calibration.
      roles: source -> role.
      counts: by source.
      shards: committed, in a fixed order.

    Raises:
      CalibrationError: one side has no scores, or too few for two halves, or the reference was fitted to some of the
        in-distribution images.
      StorageError: a scores file is damaged.
    """
    grid = settings.score.odin
    detectors = [name for name in settings.score.detectors if name != "odin"]
    inside, outside = read_grid_scores(folder, settings.score, shards, [*grid.cells, *detectors])
    outside = {name: scores for name, scores in outside.items() if np.ptp(scores.columns["gen"]) > 0}
    chosen_on, held_out = (Split.of(inside, outside, which) for which in (0, 1))
    _refuse_too_few(settings, inside, outside, [chosen_on, held_out])
    _refuse_fitted(settings, inside)
    figures = chosen_on.figures()
    choice = _choose_cell(settings, chosen_on, held_out, figures)
    names = {"odin": choice["cell"]} | {name: name for name in detectors if name in figures}
    scores = {detector: CalibrationScores.of(held_out.inside.histogram(column)) for detector, column in names.items()}
    by_class, rest = class_scores(scores_by_class(held_out.inside, names) if settings.per_class else {})
    chosen = replace(settings.score, odin=grid.cells[choice["cell"]], class_names=None)
    accuracy = {source: counts[source].accuracy for source in counts if roles[source] == "in_distribution"}
    return {
        "model": settings.score.model,
        "settings": chosen.identity(),
        "reference": settings.score.reference,
        "class_names": None if settings.score.class_names is None else list(settings.score.class_names),
        "objective": {"name": settings.objective, "against": list(outside), "surrogates": settings.surrogates},
        "choice": choice,
        "recommendation": _recommend(settings, chosen_on, held_out, list(figures), choice["cell"]),
        "grid": [{"cell": name, **asdict(cell), **figures[name]} for name, cell in grid.cells.items()],
        "detectors": {name: figures[name] for name in detectors if name in figures},
        "warnings": _warnings(settings.objective, scores["odin"].count, accuracy),
        "sources": {
            source: {"role": role, **asdict(counts.get(source, Counts())), "accuracy": accuracy.get(source)}
            for source, role in roles.items()
        },
        "cost": {
            "passes_per_image": expected_passes(grid)._asdict(),
            "seconds_per_pass": settings.times._asdict() if settings.times else None,
            "odin_over_forward": settings.times.odin_cost if settings.times else None,
        },
        "versions": {
            "odin_beam": __version__,
            "apache_beam": beam.__version__,
            "tensorflow": metadata.version("tensorflow"),
            "python": platform.python_version(),
        },
        "thresholds": {detector: distribution.table() for detector, distribution in scores.items()},
        "scores": {detector: distribution.as_dict() for detector, distribution in scores.items()},
        "class_scores": {
            detector: {str(predicted): distribution.as_dict() for predicted, distribution in classes.items()}
            for detector, classes in by_class.items()
        },
        "rest_scores": {detector: distribution.as_dict() for detector, distribution in rest.items()},
    }


@dataclass(frozen=True, eq=False)
class Split:
    """One half of the images.

    Attributes:
      inside: in-distribution images.
      outside: by source.
    """

    inside: SourceScores
    outside: Mapping[str, SourceScores]

    @classmethod
    def of(cls, inside: SourceScores, outside: Mapping[str, SourceScores], half: int) -> Self:
        return cls(inside.half(half), {name: scores.half(half) for name, scores in outside.items()})

    def figures(self) -> dict[str, dict[str, float]]:
        """Column -> its objectives; without columns that have no scores."""
        histograms = {name: self.inside.histogram(name) for name in self.inside.columns}
        return {
            name: cell_figures(histogram, [scores.histogram(name) for scores in self.outside.values()])
            for name, histogram in histograms.items()
            if histogram.count
        }

    def has_all(self, column: str) -> bool:
        """Whether every image has a score in this column."""
        return all(scores.has_all(column) for scores in (self.inside, *self.outside.values()))

    def paired(self, columns: Iterable[str]) -> PairedScores:
        """The same images in some columns."""
        columns = list(columns)
        inside, *outside = (
            {name: scores.columns[name] for name in columns} for scores in (self.inside, *self.outside.values())
        )
        return PairedScores(inside, outside)


def _refuse_too_few(
    settings: CalibrateSettings, inside: SourceScores, outside: Mapping[str, SourceScores], halves: Sequence[Split]
) -> None:
    if not len(inside):
        raise CalibrationError("no in-distribution image has a score: see the rejects")
    two_sided = OBJECTIVES[settings.objective].two_sided
    if two_sided and not outside:
        raise CalibrationError("no out-of-distribution image has a score: see the rejects")
    for half in halves:
        if not all(len(scores) for scores in (half.inside, *(half.outside.values() if two_sided else ()))):
            raise CalibrationError(
                f"{len(inside)} in-distribution images are too few: one half of them chooses, the other gives the "
                f"thresholds, and each takes {FEW_IMAGES} or more"
            )


def _refuse_fitted(settings: CalibrateSettings, inside: SourceScores) -> None:
    reference = read_own_reference(settings.score)
    if reference is None or reference.digests is None:
        return
    if known := int(np.isin(inside.digests, reference.digests).sum()):
        raise CalibrationError(
            f"{known:,} of {len(inside):,} in-distribution images are among those that the reference was fitted to: "
            "their scores are too high, so that thresholds would flag too many images; use others"
        )


def _choose_cell(
    settings: CalibrateSettings, chosen_on: Split, held_out: Split, figures: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """The chosen cell, and how much better it is than cheaper columns on the other half."""
    grid, objective = settings.score.odin, settings.objective
    best, unperturbed = best_cells(grid, figures, objective)
    chosen = choose(best, unperturbed, _gain(chosen_on, best, unperturbed, objective))
    gain_of_perturbation = _gain(held_out, best, unperturbed, objective)
    # Means of different scores are not comparable.
    over_msp = _gain(held_out, chosen, "msp", objective) if OBJECTIVES[objective].two_sided else None
    return {
        "cell": chosen,
        "best_with_perturbation": best,
        "best_without_perturbation": unperturbed,
        "gain_of_perturbation": asdict(gain_of_perturbation) if gain_of_perturbation else None,
        "gain_over_msp": asdict(over_msp) if over_msp else None,
        "at_edge": at_edge(grid, chosen),
    }


def _gain(half: Split, column: str | None, other: str | None, objective: str) -> Gain | None:
    return half.paired({column, other}).gain(column, other, objective) if column and other else None


def _recommend(
    settings: CalibrateSettings, chosen_on: Split, held_out: Split, columns: Sequence[str], cell: str
) -> dict[str, Any]:
    """The recommended detector, and what that rests on, JSON-compatible; see `choose_detector`.

    The half that did not choose must confirm the choice: the interval of the gain there must lie above 0.
    """
    choice = choose_detector(
        chosen_on.inside,
        chosen_on.outside,
        [column for column in columns if column not in settings.discouraged and held_out.has_all(column)],
        settings.score.odin.cells,
        cell,
        settings.surrogates,
    )
    detector = "odin" if choice.detector == cell else choice.detector
    compared = {family.name: held_out.outside[family.name] for family in choice.families if not family.problem}
    gains = (
        held_out_gains(held_out.inside, compared, [row.detector for row in choice.comparisons], choice.default)
        if choice.comparisons
        else {}
    )
    one, odin, reason = Passes(1, 0), expected_passes(settings.score.odin.cells[cell]), choice.reason
    if choice.detector != choice.default and gains[choice.detector][1] <= 0:
        reason = f"{detector} was better on the half that chooses, but not certainly on the other"
        detector = choice.default
    return {
        "detector": detector,
        "default": choice.default,
        "reason": reason,
        "families": [asdict(family) for family in choice.families],
        "comparisons": [
            {
                **asdict(comparison),
                "detector": "odin" if comparison.detector == cell else comparison.detector,
                "held_out_gain": gains[comparison.detector],
                "passes_per_image": (odin if comparison.detector == cell else one)._asdict(),
            }
            for comparison in choice.comparisons
        ],
    }


def _warnings(objective: str, count: int, accuracy: Mapping[str, float | None]) -> list[str]:
    warnings = []
    if objective == "mean_score":
        warnings.append(
            "the epsilon with the largest mean in-distribution score can be far from the best one: with CIFAR-10 and "
            "DenseNet-BC it gave an AUROC of 89.4, where epsilon 0 gives 95.8"
        )
    if count < FEW_IMAGES:
        warnings.append(
            f"only {count} in-distribution images: thresholds at high true positive rates are unreliable, see their "
            "intervals"
        )
    for source, share in accuracy.items():
        if share is not None and share >= SUSPICIOUS_ACCURACY:
            warnings.append(
                f"{source}: accuracy {100 * share:.1f} %; if these are the images that the classifier was trained on, "
                "use held-out ones: otherwise the thresholds are too high and flag too many images"
            )
    return warnings
