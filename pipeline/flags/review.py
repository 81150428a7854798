"""Flags of `review`."""

import argparse
from dataclasses import dataclass

from odin_beam.pipeline.flags.job import Job
from odin_beam.pipeline.flags.parser import Parser, flags_name, items
from odin_beam.transforms.storage.paths import absolute_path


@dataclass(frozen=True)
class ReviewOptions:
    """Options of `review`.

    Attributes:
      scores: absolute path of a run's folder.
      labels: absolute paths of tables that `top --random` wrote and a person labelled.
      source: name of the only source that was sampled; None for those that `top` samples.
      name: of the flags; None for those without one.
      recalibrate: absolute path of a calibration to write; None for none.
    """

    scores: str
    labels: tuple[str, ...]
    source: str | None = None
    name: str | None = None
    recalibrate: str | None = None


def _add_flags(parser: Parser) -> None:
    parser.add_argument("--scores", required=True, metavar="DIR", help="output folder of `score`, with flags")
    parser.add_list(
        "--labels",
        "FILE",
        "table of `top --random --csv`, with yes or no in its column foreign; of several, all answers count",
        required=True,
    )
    parser.add_argument("--source", metavar="NAME", help="as given to `top`")
    parser.add_argument("--name", type=flags_name, metavar="NAME", help="flags to judge: those of `flag --name NAME`")
    parser.add_argument(
        "--recalibrate",
        metavar="FILE",
        help="also write a calibration whose thresholds are those of the archive's own known images, by these labels",
    )


def _options(arguments: argparse.Namespace, beam: tuple[str, ...]) -> ReviewOptions:
    recalibrate = None if arguments.recalibrate is None else absolute_path(arguments.recalibrate)
    return ReviewOptions(
        absolute_path(arguments.scores),
        tuple(absolute_path(path) for path in items(arguments.labels)),
        arguments.source,
        arguments.name,
        recalibrate,
    )


JOB = Job(
    step=47,
    summary="from a person's labels of a random sample: how right the flags are, and what they miss",
    description="Prints the precision of the flags, the share of foreign images in the archive, and the recall of the "
    "flags, each\nwith its 95 % interval.",
    add_flags=_add_flags,
    options=_options,
)
