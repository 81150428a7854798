"""Runs a pipeline: waits for its end, or hands it to a service and returns."""

import contextlib

import apache_beam as beam

from odin_beam.pipeline.runners import dataflow
from odin_beam.pipeline.runners.local_workers import run_pipeline


def submit(
    pipeline: beam.Pipeline, progress: contextlib.AbstractContextManager = contextlib.nullcontext()
) -> str | None:
    """Runs it, and waits for its end where that is possible.

    Args:
      pipeline: complete.
      progress: what to show meanwhile, see `progress.show_progress`.

    Returns:
      None when the pipeline is done; otherwise what became of it, such as `submitted as job ID`.
    """
    with progress:
        result = run_pipeline(pipeline)
        handed = dataflow.handed_over(result)
        if handed is None:
            result.wait_until_finish()
    return handed
