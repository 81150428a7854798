"""What differs on Dataflow: default options, and command lines that cannot work there.

    odin-beam score ... --runner=DataflowRunner --project=P --region=R --temp_location=gs://B/tmp \
      --sdk_container_image=IMAGE --accelerator='type:nvidia-tesla-t4;count:1;install-nvidia-driver'

docs/dataflow.md has every step.
"""

from collections.abc import Iterable

from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.runners.runner import PipelineResult

from odin_beam.transforms.storage.paths import is_local

# TensorFlow with CUDA unpacks to more than half of the 25 GB that a worker has by default.
DISK_SIZE_GB = 100
# One shard is opened or committed while another one is on the device; each holds a few decoded batches.
HARNESS_THREADS = 4
_SDK_PROCESSES = ("use_multiple_sdk_containers", "no_use_multiple_sdk_containers")
# An option of the NVIDIA driver with which several processes do share a GPU well.
_SHARED_GPU = "use_nvidia_mps"


def on_dataflow(options: PipelineOptions) -> bool:
    """Whether Dataflow runs the job, so that its workers cannot reach this machine's files."""
    runner = options.view_as(StandardOptions).runner or ""
    # By any of the names that Beam understands.
    return runner.rpartition(".")[2].lower() in ("dataflow", "dataflowrunner")


def set_defaults(options: PipelineOptions, holds_model: bool, accelerator: str | None) -> None:
    """Sets what a Dataflow job needs, unless the user has set it.

    Args:
      options: of the job; changed in place.
      holds_model: whether the workers hold a model: then one process per worker, which has the GPU for itself.
      accelerator: of the scoring transform; one that processes share well leaves Dataflow's one process per core.
    """
    worker, debug = options.view_as(WorkerOptions), options.view_as(DebugOptions)
    if worker.disk_size_gb is None:
        worker.disk_size_gb = DISK_SIZE_GB
    if not holds_model:
        return
    shared = accelerator is not None and _SHARED_GPU in accelerator
    if not shared and not any(debug.lookup_experiment(name) for name in _SDK_PROCESSES):
        debug.add_experiment("no_use_multiple_sdk_containers")
    if debug.number_of_worker_harness_threads is None:
        debug.number_of_worker_harness_threads = HARNESS_THREADS


def problem(options: PipelineOptions, paths: Iterable[tuple[str, str]], accelerator: str | None) -> str | None:
    """Why a command line cannot work on Dataflow, in one line; None if it can.

    Args:
      options: of the job.
      paths: (flag, path) of all that the workers read or write.
      accelerator: of the scoring transform.
    """
    cloud = options.view_as(GoogleCloudOptions)
    for flag, path in paths:
        if is_local(path):
            return f"--{flag} {path} is on this machine, where Dataflow's workers cannot reach it: give a gs:// path"
    if not cloud.project:
        return "--runner=DataflowRunner needs --project"
    if not (cloud.temp_location or cloud.staging_location or "").startswith("gs://"):
        return "--runner=DataflowRunner needs --temp_location=gs://BUCKET/FOLDER"
    setup, worker = options.view_as(SetupOptions), options.view_as(WorkerOptions)
    if not (worker.sdk_container_image or setup.setup_file or setup.extra_packages):
        return "--runner=DataflowRunner needs --sdk_container_image: it holds the workers' code, see docs/dataflow.md"
    if accelerator and (other := _other_accelerator(options)):
        return f"give --accelerator or {other}, not both: the former is for scoring only, the latter for every worker"
    processes = _SDK_PROCESSES[1]
    if accelerator and _SHARED_GPU in accelerator and options.view_as(DebugOptions).lookup_experiment(processes):
        return f"{_SHARED_GPU} is for several processes on a GPU: leave --experiments={processes} out"
    return None


def _other_accelerator(options: PipelineOptions) -> str | None:
    """The flag, if any, that gives every worker an accelerator."""
    for option in options.view_as(GoogleCloudOptions).dataflow_service_options or []:
        if option.startswith("worker_accelerator="):
            return "--dataflow_service_options=worker_accelerator"
    if options.view_as(DebugOptions).lookup_experiment("worker_accelerator"):
        return "--experiments=worker_accelerator"
    hints = options.view_as(StandardOptions).resource_hints or []
    return "--resource_hints=accelerator" if any(hint.startswith("accelerator") for hint in hints) else None


def handed_over(result: PipelineResult) -> str | None:
    """How a job that continues without this process was submitted; None if this process waits for its end.

    The launcher of a Flex Template must not wait: it submits the job after this process has ended.
    """
    if type(result).__name__ != "DataflowPipelineResult":
        return None
    return f"submitted as job {result.job_id()}" if result.has_job else "template written"
