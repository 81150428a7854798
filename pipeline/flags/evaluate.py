"""Flags of `evaluate`."""

from collections.abc import Mapping
from dataclasses import dataclass

from odin_beam.pipeline.flags.groups import add_group_flags, group_options
from odin_beam.pipeline.flags.job import Job
from odin_beam.pipeline.flags.parser import Parser
from odin_beam.transforms.storage.paths import absolute_path


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `evaluate`.

    Attributes:
      scores: absolute path of a run's folder.
      groups: group -> its out-of-distribution sources.
      beam: Beam's own flags.
    """

    scores: str
    groups: Mapping[str, tuple[str, ...]]
    beam: tuple[str, ...] = ()


def _add_flags(parser: Parser) -> None:
    parser.add_argument("--scores", required=True, metavar="DIR", help="output folder of `score`")
    add_group_flags(parser)


JOB = Job(
    step=50,
    summary="recompute metrics.json from existing scores; no TensorFlow, no GPU",
    add_flags=_add_flags,
    options=lambda arguments, beam: EvaluateOptions(absolute_path(arguments.scores), group_options(arguments), beam),
    worker_paths=lambda options: [("scores", options.scores)],
)
