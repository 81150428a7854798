"""Worker processes of the local runner: the launcher ends if one dies, and they end with the launcher.

Beam's own handler (`SubprocessSdkWorkerHandler`) waits forever for a worker that dies before it has connected. If one
dies later, or the launcher is terminated, it first lets the others finish all their work.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import apache_beam as beam
import grpc
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_fn_api_pb2_grpc, endpoints_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import GrpcWorkerHandler, WorkerHandler
from apache_beam.runners.portability.local_job_service import BeamFnLoggingServicer
from apache_beam.runners.runner import PipelineResult
from apache_beam.utils.thread_pool_executor import shared_unbounded_instance
from google.protobuf import json_format, text_format

from odin_beam.pipeline.runners.workers import local_processes
from odin_beam.transforms.errors import OdinBeamError

# Only a signal wakes a thread that waits for a lock; nothing else sends this one, and it is ignored by default.
_WAKE = signal.SIGURG
# How workers of the current run died.
_deaths: list[str] = []


class WorkerDied(OdinBeamError):
    """A worker process ended before its work was done; the message tells how."""


def run_pipeline(pipeline: beam.Pipeline) -> PipelineResult:
    """`pipeline.run()`, which stops if it uses worker processes and one of them dies.

    Raises:
      WorkerDied: one did.
    """
    if local_processes(pipeline.options) == 1 or threading.current_thread() is not threading.main_thread():
        return pipeline.run()
    _deaths.clear()
    try:
        with _woken_by_deaths(), _without_lost_connection_traces():
            return pipeline.run()
    except Exception as e:
        if _deaths:
            # Beam may have noticed first, with a less precise error.
            raise WorkerDied(_deaths[0]) from e
        raise


@contextlib.contextmanager
def _woken_by_deaths() -> Iterator[None]:
    def stop(number: int, frame) -> None:
        if _deaths:
            raise WorkerDied(_deaths[0])

    before = signal.signal(_WAKE, stop)
    try:
        yield
    finally:
        signal.signal(_WAKE, before)


@contextlib.contextmanager
def _without_lost_connection_traces() -> Iterator[None]:
    """Suppresses the trace of the thread that reads a worker's messages, if that worker has died."""
    before = threading.excepthook

    def hook(arguments) -> None:
        if not issubclass(arguments.exc_type, grpc.RpcError):
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


@WorkerHandler.register_environment(python_urns.SUBPROCESS_SDK, bytes)
class _WorkerProcess(GrpcWorkerHandler):
    """A `worker_process`, started and watched."""

    def __init__(self, command_line: bytes, state, provision_info, grpc_server):
        super().__init__(state, provision_info, grpc_server)
        self._closing = False

    def start_worker(self) -> None:
        self._logging_server = grpc.server(shared_unbounded_instance())
        beam_fn_api_pb2_grpc.add_BeamFnLoggingServicer_to_server(BeamFnLoggingServicer(), self._logging_server)
        logging_port = self._logging_server.add_insecure_port("localhost:0")
        self._logging_server.start()
        logging_service = endpoints_pb2.ApiServiceDescriptor(url=f"localhost:{logging_port}")
        environment = {
            **os.environ,
            "WORKER_ID": self.worker_id,
            "PIPELINE_OPTIONS": json_format.MessageToJson(self.provision_info.provision_info.pipeline_options),
            "CONTROL_API_SERVICE_DESCRIPTOR": text_format.MessageToString(self.control_api_service_descriptor()),
            "LOGGING_API_SERVICE_DESCRIPTOR": text_format.MessageToString(logging_service),
        }
        command = [sys.executable, "-m", "odin_beam.pipeline.runners.worker_process"]
        self._process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE)
        threading.Thread(target=self._watch, name="watch_worker", daemon=True).start()

    def _watch(self) -> None:
        code = self._process.wait()
        if not self._closing:
            how = f"ended with exit code {code}"
            if code < 0:
                hint = " (out of memory?)" if code == -signal.SIGKILL else ""
                how = f"was killed by {signal.Signals(-code).name}{hint}"
            _deaths.append(f"worker process {self._process.pid} {how}")
            signal.pthread_kill(threading.main_thread().ident, _WAKE)

    def close(self) -> None:
        self._closing = True
        if sys.exception() is not None:
            # The run has failed, or was interrupted: the worker's results are no longer needed.
            self._process.kill()
        super().close()

    def stop_worker(self) -> None:
        self._process.wait()
        self._process.stdin.close()
        self._logging_server.stop(0)
