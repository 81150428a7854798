"""Reads files, retrying transient storage errors."""

import contextlib
import errno
import io
import os
import time
from typing import BinaryIO

from odin_beam.transforms.errors import NoSuchFile, StorageError, cause
from odin_beam.transforms.storage import file_system
from odin_beam.transforms.storage.file_system import is_local

# Seconds to wait before each retry of a failed read; after the last retry the file counts as unreadable.
RETRY_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)
READ_BUFFER_BYTES = 1 << 20


def _is_absent(error: Exception) -> bool:
    """Whether the file does not exist, so that a retry is pointless."""
    absent = FileNotFoundError | IsADirectoryError | NotADirectoryError
    no_name = isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP)
    # Cloud storage raises its own errors, which carry an HTTP status.
    return isinstance(error, absent) or no_name or getattr(error, "code", None) == 404


def _refuse_special_file(path: str) -> None:
    # Opening a pipe that has no writer would wait forever.
    if not is_local(path) or not os.path.exists(path):
        return
    names = os.path.abspath(path), os.path.realpath(path)
    if not os.path.isfile(path) or any(name.startswith(file_system.KERNEL_FOLDERS) for name in names):
        raise FileNotFoundError(errno.ENOENT, "it is not a regular file", path)


def _is_denied(error: Exception) -> bool:
    return isinstance(error, PermissionError) or getattr(error, "code", None) in (401, 403)


class RetryingReader(io.RawIOBase):
    """A file opened for reading; when a read fails, the file is opened again at the same position.

    So a shard survives transient storage errors without reading or scoring any record twice.
    Raises `StorageError` after `RETRY_DELAYS` without progress, or at once if the file is gone or access is denied.
    """

    def __init__(self, path: str):
        super().__init__()
        self._path = path
        self._position = 0
        self._stream = None
        self._attempt(lambda: None)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        data = self._attempt(lambda: self._stream.read(len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _attempt(self, operation):
        delays = iter(RETRY_DELAYS)
        while True:
            try:
                if self._stream is None:
                    _refuse_special_file(self._path)
                    self._stream = file_system.open_to_read(self._path)
                    if self._position:
                        self._stream.seek(self._position)
                return operation()
            except Exception as e:
                self._drop_stream()
                delay = next(delays, None)
                message = f"cannot read {self._path}: {cause(e)}"
                if _is_absent(e):
                    raise NoSuchFile(message) from e
                if delay is None or _is_denied(e):
                    raise StorageError(message) from e
                time.sleep(delay)

    def _drop_stream(self):
        stream, self._stream = self._stream, None
        if stream is not None:
            # A stream that has already failed may fail again on close; that does not matter.
            with contextlib.suppress(Exception):
                stream.close()

    def close(self):
        self._drop_stream()
        super().close()


def open_file(path: str) -> io.BufferedReader:
    """Opens a file for reading its bytes as stored (nothing is decompressed), retrying transient errors.

    Raises:
      StorageError: the storage gave up, here or in any later read.
    """
    return io.BufferedReader(RetryingReader(path), READ_BUFFER_BYTES)


def open_seekable(path: str) -> BinaryIO:
    """Opens a file for reading its bytes as stored, with seeks.

    Raises:
      StorageError: the file cannot be opened.
    """
    try:
        _refuse_special_file(path)
        return file_system.open_to_read(path)
    except Exception as e:
        raise StorageError(f"cannot read {path}: {cause(e)}") from e


def read_bytes(path: str) -> bytes:
    """Reads the whole file.

    Raises:
      StorageError: the file cannot be read.
    """
    with open_file(path) as stream:
        return stream.read()
