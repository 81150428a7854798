"""Flags of `demo`."""

from dataclasses import dataclass

from odin_beam.pipeline.flags.job import Job
from odin_beam.transforms.storage.paths import absolute_path


@dataclass(frozen=True)
class DemoOptions:
    """Options of `demo`: the absolute path of the folder to write, and Beam's own flags."""

    output: str
    beam: tuple[str, ...] = ()


JOB = Job(
    step=80,
    summary="the whole tour on the example that ships with the package",
    add_flags=lambda parser: parser.add_argument(
        "--output", default="demo-output", metavar="DIR", help="folder of the results (default: demo-output)"
    ),
    options=lambda arguments, beam: DemoOptions(absolute_path(arguments.output), beam),
)
