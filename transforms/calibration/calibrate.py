"""From the committed scores of a grid to `calibration.json`: the chosen cell, and scores to compare others against.

Every figure comes from the written Parquet, as in `summarize_scores`.
"""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import Any

import apache_beam as beam
import numpy as np

from odin_beam.transforms import __version__
from odin_beam.transforms.calibration.calibration_file import write_calibration
from odin_beam.transforms.calibration.choose_cell import PairedScores, at_edge, best_cells, cell_figures, choose
from odin_beam.transforms.calibration.conformal import CalibrationScores
from odin_beam.transforms.calibration.objectives import OBJECTIVES
from odin_beam.transforms.detectors.passes import PassTimes, expected_passes
from odin_beam.transforms.detectors.registry import CLEAN_DETECTORS
from odin_beam.transforms.errors import CalibrationError
from odin_beam.transforms.metrics.combine_scores import CombineScores, Histograms
from odin_beam.transforms.metrics.counts import Counts
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.metrics.summarize_scores import RunFacts, summary_report
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.manifest_file import manifest_digest, read_own_manifest, roles_of
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import writing
from odin_beam.transforms.tables import layout, run_file, scores_file
from odin_beam.transforms.tables.json_files import write_json
from odin_beam.transforms.tables.layout import scores_path

# With fewer images, thresholds at high true positive rates are guesses; classes with fewer images get no thresholds.
FEW_IMAGES = 100
# From this accuracy on, the images may be those that the classifier was trained on.
SUSPICIOUS_ACCURACY = 0.995


@dataclass(frozen=True)
class CalibrateSettings:
    """Settings of a calibration.

    Attributes:
      score: settings of the run, with the grid.
      objective: one of `objectives.OBJECTIVES`.
      surrogate: kind of the surrogates that replace out-of-distribution images; None if there are none.
      per_class: whether to include calibration scores by predicted class.
      output: absolute path of the calibration.
      times: measured at launch; None if nothing was left to score.
    """

    score: ScoreSettings
    objective: str
    surrogate: str | None
    per_class: bool
    output: str
    times: PassTimes | None


def compared_columns(settings: ScoreSettings) -> list[str]:
    """The columns with scores: every cell of the grid, and the detectors that need no tuning."""
    return [*settings.odin.cells, *CLEAN_DETECTORS]


@dataclass
class Calibrate(beam.PTransform):
    """{`finished`: `Shard`s, `failed`: (`Shard`, reason)} -> the calibration, then `summary.json` in the run's folder.

    Args:
      folder: absolute path of the run's folder.
      settings: of the calibration.
      launched: seconds since the epoch.
    """

    folder: str
    settings: CalibrateSettings
    launched: float

    def expand(self, shards) -> beam.PCollection[str]:
        combined = shards["finished"] | CombineScores(
            self.folder, compared_columns(self.settings.score), self.settings.score.identity()
        )
        return (
            shards["finished"].pipeline
            | "Once" >> beam.Create([self.folder])
            | "WriteCalibration"
            >> beam.Map(
                _write,
                self.settings,
                RunFacts(self.settings.score.identity(), calibrated=False, launched=self.launched),
                beam.pvalue.AsDict(combined["histograms"]),
                beam.pvalue.AsDict(combined["counts"]),
                beam.pvalue.AsList(shards["finished"]),
                beam.pvalue.AsList(shards["failed"]),
                beam.pvalue.AsList(combined["failed"]),
            )
        )


def _write(
    folder: str,
    settings: CalibrateSettings,
    facts: RunFacts,
    histograms: Histograms,
    counts: Mapping[str, Counts],
    finished: list[Shard],
    failed: list[tuple[Shard, str]],
    damaged: list[tuple[Shard, str]],
) -> str:
    """Writes the calibration, unless a shard is missing from it, and then the completion marker.

    Raises:
      OutputTakenError: the folder now belongs to another run, and so do these files.
    """
    run_file.check_owner(folder, facts.settings)
    roles = roles_of(read_own_manifest(folder, manifest_digest([*finished, *(shard for shard, _ in failed)])))
    failed = [*failed, *damaged]
    if not failed:
        shards = sorted(finished, key=lambda shard: (shard.source, shard.path, shard.file_name))
        write_calibration(settings.output, calibration_content(folder, settings, roles, histograms, counts, shards))
    write_json(folder, layout.SUMMARY, summary_report(facts, roles, counts, failed, []))
    writing.delete_temporary(folder, {shard.file_name for shard in finished})
    return folder


def calibration_content(
    folder: str,
    settings: CalibrateSettings,
    roles: Mapping[str, str],
    histograms: Histograms,
    counts: Mapping[str, Counts],
    shards: Sequence[Shard],
) -> dict[str, Any]:
    """The content of `calibration.json`, see `calibration`.

    Args:
      folder: of the run.
      settings: of the calibration.
      roles: source -> role.
      histograms: by source and column.
      counts: by source.
      shards: committed, in a fixed order.

    Raises:
      CalibrationError: one side has no scores.
    """
    grid = settings.score.odin
    inside = merged(histograms, [source for source, role in roles.items() if role == "in_distribution"])
    outside = [
        columns
        for source, role in roles.items()
        if role != "in_distribution" and (columns := merged(histograms, [source]))
    ]
    first = next(iter(grid.cells))
    if first not in inside:
        raise CalibrationError("no in-distribution image has a score: see the rejects")
    if OBJECTIVES[settings.objective].two_sided and not outside:
        raise CalibrationError("no out-of-distribution image has a score: see the rejects")
    figures = {column: cell_figures(inside[column], [columns[column] for columns in outside]) for column in inside}
    choice = _choose(folder, settings, figures, shards)
    names = {"odin": choice["cell"]} | {name: name for name in CLEAN_DETECTORS if name in inside}
    scores = {detector: CalibrationScores.of(inside[column]) for detector, column in names.items()}
    by_class, rest = class_scores(_by_class(folder, settings.score, shards, names) if settings.per_class else {})
    chosen = replace(settings.score, odin=grid.cells[choice["cell"]])
    surrogates = settings.surrogate is not None
    accuracy = {source: counts[source].accuracy for source in counts if roles[source] == "in_distribution"}
    return {
        "model": settings.score.model,
        "settings": chosen.identity(),
        "objective": {
            "name": settings.objective,
            "against": [s for s, role in roles.items() if role != "in_distribution"],
            "surrogates": surrogates,
        },
        "choice": choice,
        "grid": [{"cell": name, **asdict(cell), **figures[name]} for name, cell in grid.cells.items()],
        "detectors": {name: figures[name] for name in CLEAN_DETECTORS if name in figures},
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


def merged(histograms: Histograms, sources: Iterable[str]) -> dict[str, ScoreHistogram]:
    """Column -> its scores in all of these sources."""
    sources, by_column = set(sources), {}
    for (source, column), histogram in histograms.items():
        if source in sources:
            by_column.setdefault(column, ScoreHistogram()).merge(histogram)
    return by_column


def _choose(
    folder: str, settings: CalibrateSettings, figures: Mapping[str, Mapping[str, float]], shards: Sequence[Shard]
) -> dict[str, Any]:
    """The chosen cell, and how much better it is than cheaper columns."""
    grid, objective = settings.score.odin, settings.objective
    best, unperturbed = best_cells(grid, figures, objective)
    paired = _paired_scores(folder, settings.score, shards, [name for name in (best, unperturbed, "msp") if name])
    over_unperturbed = paired.gain(best, unperturbed, objective) if best and unperturbed else None
    chosen = choose(best, unperturbed, over_unperturbed)
    # Means of different scores are not comparable.
    over_msp = paired.gain(chosen, "msp", objective) if OBJECTIVES[objective].two_sided else None
    return {
        "cell": chosen,
        "best_with_perturbation": best,
        "best_without_perturbation": unperturbed,
        "gain_of_perturbation": asdict(over_unperturbed) if over_unperturbed else None,
        "gain_over_msp": asdict(over_msp) if over_msp else None,
        "at_edge": at_edge(grid, chosen),
    }


def _paired_scores(
    folder: str, settings: ScoreSettings, shards: Sequence[Shard], columns: Sequence[str]
) -> PairedScores:
    """The rows of all shards in some columns, with all in-distribution sources as one."""
    columns, parts, identity = list(dict.fromkeys(columns)), {}, settings.identity()
    for shard in shards:
        side = "" if shard.role == "in_distribution" else shard.source
        expected = scores_file.fingerprint(identity, shard)
        for table in scores_file.read_scores(scores_path(folder, shard), expected, columns):
            arrays = [table[column].to_numpy(zero_copy_only=False).astype(np.float64) for column in columns]
            parts.setdefault(side, []).append(np.stack(arrays))
    sides = {
        side: dict(zip(columns, np.concatenate(of_side, axis=1), strict=True))
        for side, of_side in parts.items()
        if sum(part.shape[1] for part in of_side)
    }
    return PairedScores(sides.pop(""), list(sides.values()))


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


def _by_class(
    folder: str, settings: ScoreSettings, shards: Sequence[Shard], names: Mapping[str, str]
) -> dict[str, dict[int, ScoreHistogram]]:
    """Detector -> predicted class -> its in-distribution scores."""
    histograms: dict[str, dict[int, ScoreHistogram]] = {detector: {} for detector in names}
    for shard in shards:
        if shard.role != "in_distribution":
            continue
        path, expected = scores_path(folder, shard), scores_file.fingerprint(settings.identity(), shard)
        for table in scores_file.read_scores(path, expected, ["prediction", *names.values()]):
            predictions = table["prediction"].to_numpy()
            for detector, column in names.items():
                scores = table[column].to_numpy(zero_copy_only=False).astype(np.float64)
                for predicted in np.unique(predictions).tolist():
                    histogram = histograms[detector].setdefault(predicted, ScoreHistogram())
                    histogram.add(scores[predictions == predicted])
    return histograms


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
