"""Flags of `compare`."""

import argparse
from dataclasses import dataclass

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.job import Job
from odin_beam.pipeline.flags.parser import Parser, items
from odin_beam.transforms.storage.paths import absolute_path


@dataclass(frozen=True)
class CompareOptions:
    """Options of `compare`.

    Attributes:
      scores: absolute path of the folder of the reference's run.
      new_scores: likewise of the new batch's run; the same as `scores` if there is one run.
      reference: name of the source; None for the only one.
      new: name of the source; None for the only one.
      beam: Beam's own flags.
    """

    scores: str
    new_scores: str
    reference: str | None
    new: str | None
    beam: tuple[str, ...] = ()


def _add_flags(parser: Parser) -> None:
    parser.add_list(
        "--scores",
        "DIR",
        "output folder of `score`; given twice, the first has the reference and the second the new batch",
        required=True,
    )
    parser.add_argument(
        "--reference",
        metavar="NAME",
        help="source that the new batch is compared with (default: the only one of its folder)",
    )
    parser.add_argument("--new", metavar="NAME", help="source with the new batch (default: the only one of its folder)")


def _options(arguments: argparse.Namespace, beam: tuple[str, ...]) -> CompareOptions:
    folders = [absolute_path(folder) for folder in items(arguments.scores)]
    if len(folders) not in (1, 2):
        raise UsageError(f"--scores: give one folder, or two, not {len(folders)}")
    if len(set(folders)) == 1 and not (arguments.reference and arguments.new):
        raise UsageError(f"{folders[0]}: name two of its sources, by --reference and --new")
    return CompareOptions(folders[0], folders[-1], arguments.reference, arguments.new, beam)


JOB = Job(
    step=55,
    summary="has a batch moved from another? two sources of existing scores; no TensorFlow, no GPU",
    description="Writes DIR/compare-REFERENCE+NEW.json: for every detector, how far the new scores lie from those of "
    "the\nreference, with intervals, and whether that is relevant; the same for the predicted classes.",
    add_flags=_add_flags,
    options=_options,
    worker_paths=lambda options: [("scores", options.scores), ("scores", options.new_scores)],
)
