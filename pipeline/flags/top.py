"""Flags of `top`."""

import argparse
from dataclasses import dataclass

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.job import Job
from odin_beam.pipeline.flags.parser import Parser, flags_name, positive
from odin_beam.transforms.detectors.registry import ALL
from odin_beam.transforms.storage.paths import absolute_path

# Every row passes through the launcher, and is printed.
_MAX_COUNT = 100_000


@dataclass(frozen=True)
class TopOptions:
    """Options of `top`.

    Attributes:
      scores: absolute path of a run's folder.
      count: number of images.
      random: whether they are a random sample.
      high: whether they are those with the highest scores.
      source: name of the only source wanted; None for all.
      predicted: the only predicted class wanted, its name or index; None for all.
      detector: of `registry.ALL`; None for that of the flags.
      name: of the flags; None for those without one.
      csv: absolute path of a table to write; None for none.
      copy: absolute path of a folder for copies of the images; None for none.
      sheet: absolute path of a contact sheet; None for none.
      beam: Beam's own flags.
    """

    scores: str
    count: int
    random: bool = False
    high: bool = False
    source: str | None = None
    predicted: str | None = None
    detector: str | None = None
    name: str | None = None
    csv: str | None = None
    copy: str | None = None
    sheet: str | None = None
    beam: tuple[str, ...] = ()


def _add_flags(parser: Parser) -> None:
    parser.add_argument("--scores", required=True, metavar="DIR", help="output folder of `score`")
    parser.add_argument("--count", type=positive, metavar="N", help="number of images (default: 50)")
    parser.add_argument(
        "--random",
        type=positive,
        metavar="N",
        help="instead of --count: N images by chance, half of them flagged and half not, to be labelled for `review`; "
        "a larger sample contains a smaller one",
    )
    parser.add_boolean("--high", "the other end: those with the highest scores")
    parser.add_argument(
        "--source",
        metavar="NAME",
        help="only images of this source (default: those of --input, or all if there are none)",
    )
    parser.add_argument(
        "--class", dest="predicted", metavar="NAME", help="only images predicted as this class; its name or index"
    )
    parser.add_argument(
        "--detector",
        choices=tuple(ALL),
        help="detector to rank by (default: that of the flags, which then give p-values)",
    )
    parser.add_argument("--name", type=flags_name, metavar="NAME", help="flags to use: those of `flag --name NAME`")
    parser.add_argument("--csv", metavar="FILE", help="write the table to this file, too")
    parser.add_argument(
        "--copy", metavar="DIR", help="copy the images themselves into this folder, named so that they sort"
    )
    parser.add_argument("--sheet", metavar="FILE.png", help="draw the images with their scores on one picture")


def _options(arguments: argparse.Namespace, beam: tuple[str, ...]) -> TopOptions:
    if arguments.random and (arguments.count or arguments.high):
        raise UsageError("--random draws N images by chance: give it without --count and --high")
    if arguments.random and arguments.predicted:
        raise UsageError("--random draws from all classes: give it without --class")
    count = arguments.random or arguments.count or 50
    if count > _MAX_COUNT:
        raise UsageError(
            f"{count:,} images are more than a person looks at: at most {_MAX_COUNT:,}; query the Parquet for more"
        )
    if arguments.sheet is not None and not arguments.sheet.lower().endswith(".png"):
        raise UsageError(f"--sheet {arguments.sheet}: must end in .png")
    csv, copy, sheet = (
        None if path is None else absolute_path(path) for path in (arguments.csv, arguments.copy, arguments.sheet)
    )
    return TopOptions(
        absolute_path(arguments.scores),
        count,
        arguments.random is not None,
        arguments.high,
        arguments.source,
        arguments.predicted,
        arguments.detector,
        arguments.name,
        csv,
        copy,
        sheet,
        beam,
    )


JOB = Job(
    step=45,
    summary="show the images to look at first: those least like what the classifier knows, or a random sample",
    description="Prints a table: p-value (if `flag` ran), score, predicted class, id. Reads scores only; --copy and "
    "--sheet read\nthe images again from where they were scored.",
    add_flags=_add_flags,
    options=_options,
    worker_paths=lambda options: [("scores", options.scores)],
    waits=True,
)
