"""Flags of `tune`."""

import argparse
import math
from dataclasses import dataclass

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.job import Job
from odin_beam.pipeline.flags.model import add_model_flags, model_settings
from odin_beam.pipeline.flags.parser import Parser, items
from odin_beam.pipeline.flags.reference import add_reference_flag, referenced
from odin_beam.pipeline.flags.scoring import add_run_flags
from odin_beam.pipeline.flags.sources import PATTERN_HELP, ROLES, add_source_flags, source_options, worker_paths
from odin_beam.pipeline.launch.source_pattern import SourceOptions
from odin_beam.transforms.calibration.objectives import OBJECTIVES
from odin_beam.transforms.detectors.odin_settings import OdinGrid
from odin_beam.transforms.detectors.registry import ALL
from odin_beam.transforms.fitting.reference import Reference
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.contents.surrogates import SURROGATE_TYPES
from odin_beam.transforms.storage.paths import absolute_path

# Log-spaced around the paper's choice for DenseNet-BC on CIFAR-10; and the paper's own grid.
GRIDS = {
    "small": ((1.0, 10.0, 100.0, 1000.0), (0.0, 0.00035, 0.0007, 0.0014, 0.0028, 0.0056)),
    "paper": (
        (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0),
        tuple(round(0.0002 * i, 4) for i in range(21)),
    ),
}


@dataclass(frozen=True)
class TuneOptions:
    """Options of `tune`; those that `ScoreOptions` also has mean the same.

    Attributes:
      output: absolute path of the calibration.
      folder: of the scores of the grid, absolute; next to `output`.
      temperatures: of the grid, ascending.
      epsilons: of the grid, ascending.
      objective: of `OBJECTIVES`.
      surrogates: their types; none where there are out-of-distribution images, or none are needed.
      per_class: whether scores are also kept by predicted class.
    """

    model: str
    output: str
    folder: str
    sources: SourceOptions
    temperatures: tuple[float, ...]
    epsilons: tuple[float, ...]
    objective: str
    surrogates: tuple[str, ...]
    per_class: bool
    max_rejected: float
    overwrite: bool
    check: bool
    accelerator: str | None
    arguments: argparse.Namespace
    beam: tuple[str, ...] = ()


def _add_flags(parser: Parser) -> None:
    grids = "; ".join(
        f"{name}: T of {', '.join(f'{t:g}' for t in temperatures)}, {len(epsilons)} epsilons from 0 to {epsilons[-1]:g}"
        for name, (temperatures, epsilons) in GRIDS.items()
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="calibration.json to write; pictures go next to it"
    )
    parser.add_list(
        "--in_distribution",
        "[NAME=]PATTERN",
        "validation images: like those the classifier was trained on, but not the same",
    )
    parser.add_list(
        "--out_distribution",
        "[NAME=]PATTERN",
        "known out-of-distribution images, for tuning; report on others",
    )
    add_source_flags(parser)
    parser.add_argument("--grid", choices=GRIDS, help=f"{grids} (default: small)")
    parser.add_list("--temperatures", "T,...", "instead of those of --grid")
    parser.add_list("--epsilons", "EPS,...", "instead of those of --grid; include 0")
    parser.add_argument(
        "--objective",
        choices=OBJECTIVES,
        help="; ".join(f"{name}: {objective.help}" for name, objective in OBJECTIVES.items()).replace("%", "%%")
        + " (default: fpr_at_95_tpr with --out_distribution, else auroc against surrogates)",
    )
    parser.add_list(
        "--surrogate",
        "TYPE,...",
        "surrogate types, used when there is no --out_distribution: patches (shuffled), averages of two images, halves "
        "of two images, leave_class_out (images of which the classifier lacks the class); fewer than two are no "
        "evidence for a detector (default: all four)",
    )
    parser.add_boolean("--per_class", "also keep the scores of each predicted class, for `flag --per_class`")
    add_model_flags(parser)
    add_reference_flag(parser)
    add_run_flags(parser)


def _options(arguments: argparse.Namespace, beam: tuple[str, ...]) -> TuneOptions:
    sources = source_options(arguments, ROLES[:2], beam)
    given = {source.role for source in sources.patterns}
    if "in_distribution" not in given:
        raise UsageError("nothing to tune on: give --in_distribution, validation images like the training images")
    temperatures, epsilons = _grid(arguments)
    foreign = "out_distribution" in given
    objective = arguments.objective or ("fpr_at_95_tpr" if foreign else "auroc")
    if objective == "fpr_at_95_tpr" and not foreign:
        raise UsageError(
            "--objective fpr_at_95_tpr needs --out_distribution; without it give auroc, against surrogates"
        )
    if objective == "mean_score" and (foreign or arguments.surrogate):
        raise UsageError(
            "--objective mean_score uses in-distribution images only: leave out --out_distribution and --surrogate"
        )
    if objective == "mean_score" and len(temperatures) > 1:
        raise UsageError("--objective mean_score cannot compare temperatures: give one number as --temperatures")
    if foreign and arguments.surrogate:
        raise UsageError("give --out_distribution or --surrogate, not both")
    surrogates = tuple(dict.fromkeys(items(arguments.surrogate))) if arguments.surrogate else SURROGATE_TYPES
    if unknown := [kind for kind in surrogates if kind not in SURROGATE_TYPES]:
        raise UsageError(f"--surrogate {unknown[0]}: choose from {', '.join(SURROGATE_TYPES)}")
    output = absolute_path(arguments.output)
    return TuneOptions(
        absolute_path(arguments.model),
        output,
        f"{output.removesuffix('.json')}-tuning",
        sources,
        temperatures,
        epsilons,
        objective,
        () if foreign or objective == "mean_score" else surrogates,
        arguments.per_class,
        arguments.max_rejected,
        arguments.overwrite,
        arguments.check,
        arguments.accelerator,
        arguments,
        beam,
    )


def tune_settings(options: TuneOptions) -> tuple[ScoreSettings, Reference | None]:
    """The settings of a `tune` run, and its reference; see `flags.score.score_settings`."""
    given = options.arguments
    settings = model_settings(
        given,
        odin=OdinGrid(options.temperatures, options.epsilons),
        precision=given.precision or "float32",
        batch_size=given.batch_size,
    )
    if given.reference is None:
        return settings, None
    return referenced(settings, given.reference, tuple(ALL))


def _grid(arguments: argparse.Namespace) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Temperatures and epsilons, ascending, without duplicates.

    Raises:
      UsageError: an empty list, a number out of range, or `--grid` together with a flag that it would set.
    """
    axes = []
    for name, default in zip(("temperatures", "epsilons"), GRIDS[arguments.grid or "small"], strict=True):
        if not (given := getattr(arguments, name)):
            axes.append(default)
            continue
        if arguments.grid:
            raise UsageError(f"give --grid or --{name}, not both")
        try:
            values = [float(item) for item in items(given)]
        except ValueError as e:
            raise UsageError(f"--{name}: {e}") from e
        if not values:
            raise UsageError(f"--{name} is an empty list")
        for value in values:
            if not (math.isfinite(value) and value >= 0 and (value > 0 or name == "epsilons")):
                least = "at least 0" if name == "epsilons" else "above 0"
                raise UsageError(f"--{name}: {value:g} must be {least}")
        axes.append(tuple(sorted(set(values))))
    return axes[0], axes[1]


JOB = Job(
    step=20,
    summary="find temperature, epsilon, detector and thresholds for a classifier, and write them to calibration.json",
    description="Scores the images under every temperature and epsilon and by every detector, takes the best pair, "
    "recommends a\ndetector, and writes both with thresholds and the distribution of in-distribution scores, for\n"
    "`score --calibration` and `flag`. Without out-of-distribution images it makes surrogates from your own.\n\n"
    f"{PATTERN_HELP}",
    add_flags=_add_flags,
    options=_options,
    worker_paths=lambda options: [
        ("model", options.model),
        ("output", options.output),
        *([] if (reference := options.arguments.reference) is None else [("reference", absolute_path(reference))]),
        *worker_paths(options.sources),
    ],
)
