"""Flags of `report`."""

from dataclasses import dataclass

from odin_beam.pipeline.flags.job import Job
from odin_beam.pipeline.flags.parser import Parser
from odin_beam.transforms.storage.paths import absolute_path


@dataclass(frozen=True)
class ReportOptions:
    """Options of `report`: the absolute path of a run's folder, the model factory, and Beam's own flags."""

    scores: str
    model_factory: str | None
    beam: tuple[str, ...] = ()


def _add_flags(parser: Parser) -> None:
    parser.add_argument("--scores", required=True, metavar="DIR", help="output folder of `score`")
    parser.add_argument(
        "--model_factory",
        metavar="package.module:function",
        help="as given to `score`; your own code never runs unless you give this flag",
    )


JOB = Job(
    step=60,
    summary="show what a run found: one HTML page with the answer, the images to look at first, metrics and curves",
    description="The page is DIR/report/report.html, self-contained; its figures are next to it, as SVG.",
    add_flags=_add_flags,
    options=lambda arguments, beam: ReportOptions(absolute_path(arguments.scores), arguments.model_factory, beam),
    worker_paths=lambda options: [("scores", options.scores)],
    waits=True,
)
