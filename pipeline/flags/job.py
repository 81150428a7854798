"""What the command line needs to know about a job. Each file of this folder that defines `JOB` is one."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from odin_beam.pipeline.flags.parser import Parser


@dataclass(frozen=True)
class Job:
    """A job's flags.

    Attributes:
      step: place in the list of jobs, in the order in which a user needs them.
      summary: one line of help.
      add_flags: adds the job's flags to a parser.
      options: (parsed flags, Beam's own flags as given) -> the job's frozen options; raises `UsageError`.
      description: more lines of help.
      worker_paths: options -> (flag, path) of everything that workers read or write; None for a job without workers.
      waits: whether the launcher needs the workers' results, so that a template cannot be used.
    """

    step: int
    summary: str
    add_flags: Callable[[Parser], None]
    options: Callable[[argparse.Namespace, tuple[str, ...]], Any]
    description: str = ""
    worker_paths: Callable[[Any], Sequence[tuple[str, str]]] | None = None
    waits: bool = False
