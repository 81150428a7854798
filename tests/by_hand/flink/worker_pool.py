"""A pool of Beam workers at one address, for several pools on one machine.

    python tests/by_hand/flink/worker_pool.py 127.0.0.2:50000

Beam's own `python -m apache_beam.runners.worker.worker_pool_main --service_port=50000` is the same service, but on all
of a machine's addresses: there is one of it per machine, as a cluster of real machines wants it.
"""

import sys

import grpc
from apache_beam.portability.api import beam_fn_api_pb2_grpc
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer
from apache_beam.utils import thread_pool_executor


def serve(address: str) -> None:
    """Starts a worker process for whoever asks at HOST:PORT; never returns."""
    # Without this a second pool could take the same address, and half of the requests.
    options = [("grpc.so_reuseport", 0)]
    server = grpc.server(thread_pool_executor.shared_unbounded_instance(), options=options)
    pool = BeamFnExternalWorkerPoolServicer(use_process=True)
    beam_fn_api_pb2_grpc.add_BeamFnExternalWorkerPoolServicer_to_server(pool, server)
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    serve(sys.argv[1])
