"""Flags of `flag`."""

import argparse
from dataclasses import dataclass

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.job import Job
from odin_beam.pipeline.flags.parser import Parser, flags_name, rate
from odin_beam.transforms.detectors.registry import ALL
from odin_beam.transforms.storage.paths import absolute_path


@dataclass(frozen=True)
class FlagOptions:
    """Options of `flag`.

    Attributes:
      scores: absolute path of a run's folder.
      calibration: absolute path.
      detector: of `registry.ALL`; None for the one that the calibration recommends.
      tpr: true positive rate of the threshold; None with `fdr`.
      fdr: false discovery rate; None with `tpr`.
      per_class: whether images are compared with calibration images of the same predicted class.
      name: of the flags; None for those without one.
      beam: Beam's own flags.
    """

    scores: str
    calibration: str
    detector: str | None
    tpr: float | None
    fdr: float | None
    per_class: bool
    name: str | None = None
    beam: tuple[str, ...] = ()


def _add_flags(parser: Parser) -> None:
    parser.add_argument("--scores", required=True, metavar="DIR", help="output folder of `score`")
    parser.add_argument("--calibration", required=True, metavar="FILE", help="calibration.json from `tune`")
    parser.add_argument(
        "--detector",
        choices=tuple(ALL),
        help="detector whose scores are compared (default: the one that the calibration recommends)",
    )
    parser.add_argument(
        "--tpr",
        type=rate,
        metavar="RATE",
        help="flag images below the threshold that this share of the calibration images reaches (default: 0.95)",
    )
    parser.add_argument(
        "--fdr",
        type=rate,
        metavar="RATE",
        help="instead of --tpr: flag so that at most this share of all flags is expected to be in-distribution "
        "(Benjamini-Hochberg, over the --input sources, or over all sources if there are none)",
    )
    parser.add_boolean(
        "--per_class", "compare with calibration images of the same predicted class, where there are enough"
    )
    parser.add_argument(
        "--name",
        type=flags_name,
        metavar="NAME",
        help="keep these flags beside others, in DIR/flags-NAME (letters, digits and _)",
    )


def _options(arguments: argparse.Namespace, beam: tuple[str, ...]) -> FlagOptions:
    if arguments.tpr is not None and arguments.fdr is not None:
        raise UsageError("give --tpr or --fdr, not both")
    tpr = 0.95 if arguments.tpr is None and arguments.fdr is None else arguments.tpr
    return FlagOptions(
        absolute_path(arguments.scores),
        absolute_path(arguments.calibration),
        arguments.detector,
        tpr,
        arguments.fdr,
        arguments.per_class,
        arguments.name,
        beam,
    )


JOB = Job(
    step=40,
    summary="flag out-of-distribution images in existing scores, by a calibration; no TensorFlow, no GPU",
    description="Writes DIR/flags/, one row per image: shard, index, id, prediction, score, p_value (conformal: how "
    "unusual\nthe score is among the calibration images) and is_ood. Another threshold needs no new scores.",
    add_flags=_add_flags,
    options=_options,
    worker_paths=lambda options: [("scores", options.scores)],
)
