"""Beam's own options: checked, completed, and refused if the job cannot run with them."""

import difflib
from collections.abc import Sequence
from typing import Any

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, SetupOptions, StandardOptions

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.job import Job
from odin_beam.pipeline.flags.parser import Parser
from odin_beam.pipeline.runners import dataflow
from odin_beam.pipeline.runners.workers import runs_here

DEFAULT_RUNNER = "FnApiRunner"


def beam_options(flags: Sequence[str], holds_model: bool = False, accelerator: str | None = None) -> PipelineOptions:
    """Beam's options of a job: `DEFAULT_RUNNER` unless another is given, code from the image, never from `__main__`.

    Args:
      flags: Beam's own, as given.
      holds_model: whether the job's workers hold a model.
      accelerator: of those workers, where one is asked for.
    """
    options = PipelineOptions(list(flags))
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or DEFAULT_RUNNER
    options.view_as(SetupOptions).save_main_session = False
    if dataflow.on_dataflow(options):
        dataflow.set_defaults(options, holds_model, accelerator)
    return options


def refuse_unknown(flags: Sequence[str], parser: Parser) -> None:
    """Checks that Beam recognises every flag that is not the job's own.

    Raises:
      UsageError: it does not; the message names the job's flag that is closest.
    """
    parsers = []
    PipelineOptions([]).get_all_options(add_extra_args_fn=parsers.append)
    unknown = parsers[0].parse_known_args(list(flags))[1]
    if not unknown:
        return
    name = unknown[0].partition("=")[0]
    ours = [option for action in parser._actions for option in action.option_strings]
    close = [option for option in ours if option.startswith(name)] or difflib.get_close_matches(name, ours, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    parser.error(f"unknown {'flag' if name.startswith('-') else 'argument'} {name}{hint}")


def refuse_runner(name: str, job: Job, options: Any) -> None:
    """Checks that the runner can run the job.

    Raises:
      UsageError: it cannot.
    """
    beam = PipelineOptions(list(options.beam))
    if job.worker_paths is None:
        if name == "check" and not runs_here(beam):
            raise UsageError("check looks at a few images on this machine: leave --runner out")
        return
    if not dataflow.on_dataflow(beam):
        return
    if job.waits and beam.view_as(GoogleCloudOptions).template_location:
        raise UsageError(f"{name} needs its workers' results: leave --template_location out")
    if problem := dataflow.problem(beam, job.worker_paths(options), getattr(options, "accelerator", None)):
        raise UsageError(problem)
