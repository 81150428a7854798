"""Flags of `fit`."""

import argparse
from dataclasses import dataclass

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.job import Job
from odin_beam.pipeline.flags.model import add_model_flags, model_settings
from odin_beam.pipeline.flags.parser import Parser, positive
from odin_beam.pipeline.flags.scoring import add_run_flags
from odin_beam.pipeline.flags.sources import PATTERN_HELP, ROLES, add_source_flags, source_options, worker_paths
from odin_beam.pipeline.launch.source_pattern import SourceOptions
from odin_beam.transforms.scoring.feature_settings import FeatureSettings
from odin_beam.transforms.storage.paths import absolute_path


@dataclass(frozen=True)
class FitOptions:
    """Options of `fit`; those that `ScoreOptions` also has mean the same.

    Attributes:
      output: absolute path of the reference.
      folder: of the features, absolute; next to `output`.
      bank: number of images that neighbours are looked up in.
      sample: largest number of images to fit to.
    """

    model: str
    output: str
    folder: str
    sources: SourceOptions
    bank: int
    sample: int
    max_rejected: float
    overwrite: bool
    check: bool
    accelerator: str | None
    arguments: argparse.Namespace
    beam: tuple[str, ...] = ()


def _add_flags(parser: Parser) -> None:
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="reference.npz to write; the features go into a folder next to it, where a rerun resumes",
    )
    parser.add_list(
        "--in_distribution",
        "[NAME=]PATTERN",
        "images to fit to: those that the classifier was trained on, or others like them; labels are used if present",
    )
    add_source_flags(parser)
    parser.add_argument(
        "--bank",
        type=positive,
        default=10_000,
        metavar="N",
        help="images that knn and nnguide look neighbours up in, the same number of each class (default: 10000)",
    )
    parser.add_argument(
        "--sample",
        type=positive,
        default=1_000_000,
        metavar="N",
        help="largest number of images to fit to; of more, those with the lowest digests (default: 1000000)",
    )
    add_model_flags(parser)
    add_run_flags(parser)


def _options(arguments: argparse.Namespace, beam: tuple[str, ...]) -> FitOptions:
    sources = source_options(arguments, ROLES[:1], beam)
    if not sources.patterns:
        raise UsageError("nothing to fit to: give --in_distribution, images like the training images")
    output = absolute_path(arguments.output)
    return FitOptions(
        absolute_path(arguments.model),
        output,
        f"{output.removesuffix('.npz')}-fitting",
        sources,
        arguments.bank,
        arguments.sample,
        arguments.max_rejected,
        arguments.overwrite,
        arguments.check,
        arguments.accelerator,
        arguments,
        beam,
    )


def fit_settings(options: FitOptions) -> FeatureSettings:
    """The settings of a `fit` run; see `flags.score.score_settings`."""
    given = options.arguments
    return FeatureSettings.of(
        model_settings(given, precision=given.precision or "float32", batch_size=given.batch_size)
    )


JOB = Job(
    step=15,
    summary="fit detectors to in-distribution images, and write what they need to reference.npz",
    description="Computes the features of the images, the input of the classifier's last layer, in one forward pass\n"
    f"each, and derives the statistics that mds, vim, knn and other detectors need.\n\n{PATTERN_HELP}",
    add_flags=_add_flags,
    options=_options,
    worker_paths=lambda options: [
        ("model", options.model),
        ("output", options.output),
        *worker_paths(options.sources),
    ],
)
