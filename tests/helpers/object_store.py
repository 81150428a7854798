"""Object storage on this machine: an emulator of Google Cloud Storage, if wanted behind a proxy that fails requests.

Everything is on loopback, on free ports, and ends with the `with` block.
"""

import contextlib
import http.client
import itertools
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

from apache_beam.internal.gcp import auth
from apache_beam.io.filesystems import FileSystems
from gcp_storage_emulator.server import create_server

BUCKET = "gs://b"
_VARIABLE = "STORAGE_EMULATOR_HOST"


@contextlib.contextmanager
def object_store(fail_every: int | None = None) -> Iterator["FaultyProxy | None"]:
    """`gs://b`, empty, for this process and those that it starts.

    Args:
      fail_every: of all requests every so many-th is answered with 503; None for a store without faults.
    """
    with contextlib.ExitStack() as stack:
        port = _free_port()
        stack.enter_context(create_server("127.0.0.1", port, in_memory=True, default_bucket="b"))
        # Or the first call looks for credentials for half a minute.
        stack.enter_context(mock.patch.object(auth._Credentials, "_credentials_init", True))
        proxy = stack.enter_context(FaultyProxy(port, fail_every)) if fail_every else None
        address = f"http://127.0.0.1:{proxy.port if proxy else port}"
        stack.enter_context(mock.patch.dict(os.environ, {_VARIABLE: address}))
        yield proxy


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def put(local: Path, uri: str) -> str:
    """Copies a file into the store."""
    with FileSystems.create(uri, compression_type="uncompressed") as stream:
        stream.write(local.read_bytes())
    return uri


def listing(pattern: str) -> list[str]:
    """The names of the objects that match, sorted."""
    return sorted(found.path for found in FileSystems.match([pattern])[0].metadata_list)


class FaultyProxy:
    """Hands requests on to a server on loopback, but every so many-th is answered with 503.

    Attributes:
      port: where it listens.
      failed: how many requests were answered with 503.
    """

    def __init__(self, behind: int, fail_every: int):
        numbers, lock = itertools.count(1), threading.Lock()
        self.failed = 0

        def fails() -> bool:
            with lock:
                failing = next(numbers) % fail_every == 0
                self.failed += failing
                return failing

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _handle(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if fails():
                    self._answer(503, {}, b"busy")
                    return
                connection = http.client.HTTPConnection("127.0.0.1", behind, timeout=60)
                connection.request(self.command, self.path, body, dict(self.headers))
                response = connection.getresponse()
                self._answer(response.status, dict(response.getheaders()), response.read())
                connection.close()

            def _answer(self, status: int, headers: dict[str, str], body: bytes):
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *_):
                pass

        for verb in ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"):
            setattr(Handler, f"do_{verb}", Handler._handle)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]

    def __enter__(self) -> "FaultyProxy":
        threading.Thread(target=self._server.serve_forever, name="faulty proxy", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()
