"""Flags of `check`."""

import argparse
from dataclasses import dataclass

from odin_beam.pipeline.flags.job import Job
from odin_beam.pipeline.flags.model import add_class_names_flag, add_model_flags
from odin_beam.pipeline.flags.parser import Parser, positive
from odin_beam.pipeline.flags.sources import PATTERN_HELP, add_source_flags, source_options
from odin_beam.pipeline.launch.source_pattern import SourceOptions
from odin_beam.transforms.storage.paths import absolute_path


@dataclass(frozen=True)
class CheckOptions:
    """Options of `check`.

    Attributes:
      model: absolute path.
      output: absolute path of the model.json to write; None writes none.
      sources: in-distribution images; may be empty.
      images: size of the archive whose cost to estimate; None estimates none.
      arguments: the parsed flags.
      beam: Beam's own flags, which the job does not use.
    """

    model: str
    output: str | None
    sources: SourceOptions
    images: int | None
    arguments: argparse.Namespace
    beam: tuple[str, ...] = ()


def _add_flags(parser: Parser) -> None:
    add_model_flags(parser)
    add_class_names_flag(parser)
    parser.add_list("--in_distribution", "[NAME=]PATTERN", "images like those the classifier was trained on")
    add_source_flags(parser)
    parser.add_argument(
        "--images",
        type=positive,
        metavar="N",
        help="number of images in your archive: also print the hours that scoring them takes on this machine, and the "
        "hours and dollars on Dataflow, on paper",
    )
    parser.add_argument("--output", metavar="FILE", help="model.json to write; the contact sheet goes next to it")


JOB = Job(
    step=10,
    summary="check that a model is read and fed correctly: its head, input size and preprocessing, on your images",
    description="Tries the usual preprocessings on up to 256 in-distribution images and compares accuracies, so give\n"
    f"images with labels if you can.\n\n{PATTERN_HELP}",
    add_flags=_add_flags,
    options=lambda arguments, beam: CheckOptions(
        absolute_path(arguments.model),
        absolute_path(arguments.output) if arguments.output else None,
        source_options(arguments, ["in_distribution"], beam),
        arguments.images,
        arguments,
        beam,
    ),
)
