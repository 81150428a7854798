"""How many workers a run has, and what follows from it: threads per worker, and whether there are enough shards."""

import os
from collections.abc import Collection

from apache_beam.options.pipeline_options import (
    DirectOptions,
    FlinkRunnerOptions,
    PipelineOptions,
    StandardOptions,
    WorkerOptions,
)

# So that the workers end at about the same time, although they start their last shards at different times.
SHARDS_PER_WORKER = 3
_THREADS = "TF_NUM_INTRAOP_THREADS"
# By any of the names that Beam understands: `flink` is `FlinkRunner`.
_ELSEWHERE = ("dataflow", "flink", "spark", "portable")


def runs_here(options: PipelineOptions) -> bool:
    """Whether this machine does the work, as with Beam's local runners; the others send it elsewhere."""
    runner = options.view_as(StandardOptions).runner or ""
    return runner.rpartition(".")[2].lower().removesuffix("runner") not in _ELSEWHERE


def local_processes(options: PipelineOptions) -> int:
    """Worker processes that the local runner starts; 1 if the launcher's own process does the work."""
    direct = options.view_as(DirectOptions)
    if direct.direct_running_mode != "multi_processing":
        return 1
    return direct.direct_num_workers or os.cpu_count() or 1


def workers(options: PipelineOptions) -> int:
    """Workers at most, as far as the options tell; otherwise 1."""
    cloud = options.view_as(WorkerOptions)
    parallelism = options.view_as(FlinkRunnerOptions).parallelism
    return max(local_processes(options), cloud.max_num_workers or cloud.num_workers or 1, parallelism)


def share_cores(options: PipelineOptions) -> None:
    """Has each local process that is started from now on use its share of the cores, unless the user said otherwise."""
    processes = local_processes(options)
    if processes > 1:
        os.environ.setdefault(_THREADS, str(max(1, (os.cpu_count() or 1) // processes)))


def imbalance(images: Collection[int], count: int) -> str | None:
    """A warning in one line if the load will be uneven; None if it is even, or there is one worker.

    Args:
      images: expected in each shard that is to be scored.
      count: of workers.
    """
    if count < 2 or not images:
        return None
    if len(images) < SHARDS_PER_WORKER * count:
        return (
            f"warning: {len(images):,} shards for {count:,} workers: some will be idle; make "
            f"{SHARDS_PER_WORKER * count:,} or more shards with `odin-beam ingest`"
        )
    largest, share = max(images), sum(images) / count
    if largest > share:
        return (
            f"warning: one shard has {largest:,} of {sum(images):,} images: the other workers will wait for it; "
            "`odin-beam ingest` makes even shards"
        )
    return None
