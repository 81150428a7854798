"""From a command line to a job's options. Imports neither TensorFlow nor, unless a flag of Beam's is given, Beam."""

import argparse
import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

from odin_beam.pipeline import jobs
from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.job import Job
from odin_beam.pipeline.flags.parser import Parser, split_arguments


def all_jobs() -> dict[str, Job]:
    """Every job by name, in the order of the help: a job is a file in `jobs` and one of the same name here."""
    found = {name: importlib.import_module(f"odin_beam.pipeline.flags.{name}").JOB for name in names()}
    return dict(sorted(found.items(), key=lambda pair: pair[1].step))


def job_list() -> str:
    """Help on the jobs as a whole."""
    lines = ["usage: odin-beam JOB [flags]", "", "jobs:"]
    lines += [f"  {name:10} {job.summary}" for name, job in all_jobs().items()]
    return "\n".join(
        [*lines, "", "odin-beam JOB --help lists the flags of a job; odin-beam --version prints the version."]
    )


def parse(name: str, argv: Sequence[str]) -> Any:
    """Options of a job from what follows its name on the command line.

    Raises:
      UsageError: unknown job or flag, missing or bad value, or a runner that cannot run the job.
      SystemExit: after `--help`.
    """
    if name not in names():
        raise UsageError(f"unknown job {name!r}; the jobs are {', '.join(all_jobs())}")
    job, parser = _parser(name)
    ours, runners = split_arguments(argv)
    arguments, rest = parser.parse_known_args(ours)
    # A run records the command that launched it.
    arguments.command = (name, *argv)
    beam = (*rest, *runners)
    if beam:
        # Beam takes seconds to import, which most commands can do without until the pipeline starts.
        from odin_beam.pipeline.runners import beam_options

        beam_options.refuse_unknown(rest, parser)
        options = job.options(arguments, beam)
        beam_options.refuse_runner(name, job, options)
        return options
    return job.options(arguments, ())


def flags_of(name: str) -> list[argparse.Action]:
    """The flags of a job, in the order of its help."""
    return [action for action in _parser(name)[1]._actions if action.dest != "help"]


def names() -> list[str]:
    """The names of all jobs."""
    return [module.name for module in pkgutil.iter_modules(jobs.__path__)]


def _parser(name: str) -> tuple[Job, Parser]:
    job: Job = importlib.import_module(f"odin_beam.pipeline.flags.{name}").JOB
    parser = Parser(name, job.summary, job.description)
    job.add_flags(parser)
    return job, parser
