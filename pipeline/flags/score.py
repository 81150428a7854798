"""Flags of `score`."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.from_features import (
    FromFeaturesOptions,
    add_from_features_flag,
    from_features_options,
)
from odin_beam.pipeline.flags.groups import add_group_flags, group_options
from odin_beam.pipeline.flags.job import Job
from odin_beam.pipeline.flags.model import add_class_names_flag, add_model_flags, calibration_given, model_settings
from odin_beam.pipeline.flags.parser import Parser, items, number
from odin_beam.pipeline.flags.reference import add_reference_flag, referenced
from odin_beam.pipeline.flags.scoring import add_run_flags
from odin_beam.pipeline.flags.sources import PATTERN_HELP, ROLES, add_source_flags, source_options, worker_paths
from odin_beam.pipeline.launch.source_pattern import SourceOptions
from odin_beam.transforms.detectors.odin_settings import OdinSettings
from odin_beam.transforms.detectors.registry import ALL, DETECTORS, FITTED_DETECTORS
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.storage.paths import absolute_path
from odin_beam.transforms.tables.schemas import FEATURE_TYPES


@dataclass(frozen=True)
class ScoreOptions:
    """Options of `score`. The settings are made by `score_settings`, which reads the model.

    Attributes:
      model: absolute path.
      output: absolute path of the run's folder.
      sources: which images.
      calibrated: whether temperature and epsilon come from a calibration.
      max_rejected: share of rejected records above which the exit code is 3.
      overwrite: whether to remove an earlier run's results first.
      check: whether to check a few images first.
      groups: group -> its out-of-distribution sources, for the metrics.
      accelerator: Beam's resource hint for the workers that score; not part of the settings.
      arguments: the parsed flags.
      beam: Beam's own flags.
    """

    model: str
    output: str
    sources: SourceOptions
    calibrated: bool
    max_rejected: float
    overwrite: bool
    check: bool
    groups: Mapping[str, tuple[str, ...]]
    accelerator: str | None
    arguments: argparse.Namespace
    beam: tuple[str, ...] = ()

    @property
    def worker_paths(self) -> list[tuple[str, str]]:
        """(flag, path) of everything that workers read or write."""
        reference = self.arguments.reference
        return [
            ("model", self.model),
            ("output", self.output),
            *([] if reference is None else [("reference", absolute_path(reference))]),
            *worker_paths(self.sources),
        ]


def _add_flags(parser: Parser) -> None:
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the results; a rerun resumes there")
    parser.add_list("--in_distribution", "[NAME=]PATTERN", "images like those the classifier was trained on")
    parser.add_list("--out_distribution", "[NAME=]PATTERN", "images known to be out-of-distribution")
    parser.add_list("--input", "[NAME=]PATTERN", "images to be judged")
    add_source_flags(parser)
    parser.add_argument("--temperature", type=number, metavar="T", help="ODIN's T, above 0 (default: 1000)")
    parser.add_argument(
        "--epsilon", type=number, metavar="EPS", help="ODIN's epsilon, in [0, 1] pixel units (default: 0.0014)"
    )
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="calibration.json from `tune`: T, epsilon, precision and how the model is fed, instead of --model_config",
    )
    add_model_flags(parser, required=False)
    add_class_names_flag(parser)
    add_reference_flag(parser)
    parser.add_list(
        "--detectors",
        "NAME,...",
        f"of {', '.join(DETECTORS)}; with --reference also of {', '.join(FITTED_DETECTORS)} (default: all)",
    )
    parser.add_argument(
        "--features",
        choices=tuple(FEATURE_TYPES),
        help="also keep the input of the model's last dense layer of every image, for detectors of later (default: "
        "none are kept); float16 takes half the storage, and moves scores by thousandths of their standard deviation",
    )
    add_from_features_flag(parser)
    add_group_flags(parser)
    add_run_flags(parser)


def _options(arguments: argparse.Namespace, beam: tuple[str, ...]) -> ScoreOptions | FromFeaturesOptions:
    if arguments.from_features is not None:
        parser = Parser("score", "", "")
        _add_flags(parser)
        return from_features_options(arguments, beam, parser.get_default)
    if arguments.model is None:
        raise UsageError("the following arguments are required: --model (see odin-beam score --help)")
    sources = source_options(arguments, ROLES, beam)
    if not sources.patterns:
        raise UsageError("nothing to score: give --in_distribution, --out_distribution or --input")
    if arguments.calibration and arguments.model_config:
        raise UsageError("give --calibration or --model_config, not both: the calibration includes the model config")
    return ScoreOptions(
        absolute_path(arguments.model),
        absolute_path(arguments.output),
        sources,
        arguments.calibration is not None,
        arguments.max_rejected,
        arguments.overwrite,
        arguments.check,
        group_options(arguments),
        arguments.accelerator,
        arguments,
        beam,
    )


def score_settings(options: ScoreOptions) -> ScoreSettings:
    """The settings of a run. Reads the model file, but does not import TensorFlow.

    Raises:
      UsageError: a value out of its range, flags that contradict each other, a model that cannot be read, or a
        reference that cannot be read or is of another model.
    """
    given = options.arguments
    chosen = tuple(dict.fromkeys(items(given.detectors)))
    calibration = calibration_given(given)
    tuned_with = calibration.content.get("reference") if calibration else None
    path, flag = (given.reference, "reference") if given.reference else (tuned_with, "calibration")
    fitted = [name for name in chosen if name in FITTED_DETECTORS]
    if fitted and path is None:
        raise UsageError(f"--detectors {', '.join(fitted)}: give --reference, a reference.npz from `fit`")
    try:
        settings = model_settings(
            given, **_calibrated(given), batch_size=given.batch_size, kept_features=given.features
        )
        if path is None or (chosen and not fitted and given.reference is None):
            return replace(settings, detectors=chosen or DETECTORS)
    except ValueError as e:
        raise UsageError(f"--{e}") from e
    settings, _ = referenced(settings, path, chosen or tuple(ALL), flag)
    if tuned_with and settings.reference_digest != calibration.settings.reference_digest:
        raise UsageError(f"--{flag}: {path} is another reference than the one that --calibration was tuned with")
    return settings


def _calibrated(given: argparse.Namespace) -> dict[str, Any]:
    """ODIN's parameters and the precision, from the flags, else the calibration, else the defaults.

    Raises:
      UsageError: they contradict each other.
    """
    flags = {name: getattr(given, name) for name in ("temperature", "epsilon") if getattr(given, name) is not None}
    if (calibration := calibration_given(given)) is None:
        return {"odin": OdinSettings(**flags), "precision": given.precision or "float32"}
    found = calibration.settings
    for name, value in flags.items():
        if value != (known := getattr(found.odin, name)):
            raise UsageError(f"--{name} {value:g} contradicts --calibration, which has {known:g}")
    if given.precision not in (None, found.precision):
        raise UsageError(f"--precision {given.precision} contradicts --calibration, which has {found.precision}")
    if given.model_factory != found.model_factory:
        raise UsageError(
            f"--model_factory {given.model_factory} contradicts --calibration, which has {found.model_factory}"
        )
    return {"odin": found.odin, "precision": found.precision}


JOB = Job(
    step=30,
    summary="score an archive: ODIN and the other detectors, one Parquet row per image, detection metrics",
    description=f"{PATTERN_HELP}\nNAME is the source's name in the results. Without a NAME it is named after its "
    "role,\nor, for tfds: and noise:, after its data set or distribution.",
    add_flags=_add_flags,
    options=_options,
    worker_paths=lambda options: options.worker_paths,
)
