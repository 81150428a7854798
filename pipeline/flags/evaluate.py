"""Flags of `evaluate`."""

from dataclasses import dataclass

from odin_beam.pipeline.flags.job import Job
from odin_beam.transforms.storage.paths import absolute_path


@dataclass(frozen=True)
class EvaluateOptions:
    """Options of `evaluate`: the absolute path of a run's folder, and Beam's own flags."""

    scores: str
    beam: tuple[str, ...] = ()


JOB = Job(
    step=50,
    summary="recompute metrics.json from existing scores; no TensorFlow, no GPU",
    add_flags=lambda parser: parser.add_argument(
        "--scores", required=True, metavar="DIR", help="output folder of `score`"
    ),
    options=lambda arguments, beam: EvaluateOptions(absolute_path(arguments.scores), beam),
    worker_paths=lambda options: [("scores", options.scores)],
)
