"""The workers of a run: how many there are, threads for each, shards enough for all, and what if one dies."""

import contextlib
import os
import signal
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from apache_beam.options.pipeline_options import DirectOptions, FlinkRunnerOptions, PipelineOptions, WorkerOptions

# So that the workers end at about the same time, although their last shards begin at different ones.
SHARDS_PER_WORKER = 3
_THREADS = "TF_NUM_INTRAOP_THREADS"
# As Beam calls the thread that waits for a worker process.
_WAITING = "run_worker"
# How it puts it that a process ended by Ctrl-C, which reaches the launcher, too.
_INTERRUPTED = "return code -2"


def local_processes(options: PipelineOptions) -> int:
    """Worker processes that the local runner starts; 1 where the work is done in the launcher's own."""
    direct = options.view_as(DirectOptions)
    if direct.direct_running_mode != "multi_processing":
        return 1
    return direct.direct_num_workers or os.cpu_count() or 1


def workers(options: PipelineOptions) -> int:
    """Workers at most, as far as the options say; 1 where they say nothing."""
    cloud = options.view_as(WorkerOptions)
    parallelism = options.view_as(FlinkRunnerOptions).parallelism
    return max(local_processes(options), cloud.max_num_workers or cloud.num_workers or 1, parallelism)


def share_cores(options: PipelineOptions) -> None:
    """Has each local process that is started from now on use its share of the cores, unless the user said otherwise."""
    processes = local_processes(options)
    if processes > 1:
        os.environ.setdefault(_THREADS, str(max(1, (os.cpu_count() or 1) // processes)))


def _descendants(process: str = "self") -> list[int]:
    """Process ids of all that a process has started, where the system tells them as Linux does."""
    found = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                found += [int(child), *_descendants(child)]
    return found


class WorkerDied(Exception):
    """A local worker process is gone before its time."""


@contextlib.contextmanager
def watched_workers() -> Iterator[None]:
    """Ends the body when a local worker process dies; Beam would wait for ever for one that dies while it starts.

    Raises:
      WorkerDied: one did.
    """
    deaths: list[str] = []
    launcher, before, watching = threading.current_thread(), threading.excepthook, True

    def hook(arguments) -> None:
        if arguments.thread is None or _WAITING not in arguments.thread.name:
            before(arguments)
        elif watching and not deaths and not str(arguments.exc_value).endswith(_INTERRUPTED):
            deaths.append(str(arguments.exc_value))
            # Or Beam, on its way out, would wait for these others, who know of nothing.
            for process in _descendants():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            # A signal, since nothing else wakes a thread that waits for a lock.
            signal.pthread_kill(launcher.ident, signal.SIGINT)

    threading.excepthook = hook
    try:
        yield
    except BaseException as e:
        if deaths:
            raise WorkerDied(f"{deaths[0]}: out of memory, or killed?") from e
        raise
    finally:
        # The hook stays: workers that end with the launcher have nothing to say.
        watching = False


def imbalance(images: Collection[int], count: int) -> str | None:
    """What speaks against an even load, in one line; None where nothing does, or there is one worker.

    Args:
      images: expected in each shard that is to be scored.
      count: of workers.
    """
    if count < 2 or not images:
        return None
    if len(images) < SHARDS_PER_WORKER * count:
        return (
            f"warning: {len(images):,} shards for {count:,} workers: some will have nothing to do; `odin-beam ingest` "
            f"makes more of them, {SHARDS_PER_WORKER * count:,} or more would be good"
        )
    largest, share = max(images), sum(images) / count
    if largest > share:
        return (
            f"warning: one shard has {largest:,} of {sum(images):,} images: {count:,} workers will wait for it; "
            "`odin-beam ingest` makes even shards"
        )
    return None
