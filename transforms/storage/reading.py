"""Reads files through transient storage errors."""

import contextlib
import errno
import io
import os
import time
from typing import BinaryIO

from odin_beam.transforms.errors import NoSuchFile, StorageError, cause
from odin_beam.transforms.storage import file_system
from odin_beam.transforms.storage.file_system import is_local

# Seconds before each new attempt at a failed read; after the last one the file counts as unreadable.
RETRY_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)
READ_BUFFER_BYTES = 1 << 20


def _is_absent(error: Exception) -> bool:
    """Whether there is no such file, and another attempt would not find one."""
    absent = FileNotFoundError | IsADirectoryError | NotADirectoryError
    no_name = isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP)
    # Cloud storage has errors of its own, which carry an HTTP status.
    return isinstance(error, absent) or no_name or getattr(error, "code", None) == 404


def _refuse_special_file(path: str) -> None:
    # Opening a pipe that nobody writes to would wait for ever.
    if is_local(path) and os.path.exists(path) and not os.path.isfile(path):
        raise FileNotFoundError(errno.ENOENT, "it is no regular file", path)


def _is_denied(error: Exception) -> bool:
    return isinstance(error, PermissionError) or getattr(error, "code", None) in (401, 403)


class RetryingReader(io.RawIOBase):
    """A file opened for reading that, when a read fails, is opened again at the same position.

    So a shard survives passing storage trouble without any of its records being read or scored twice.
    After `RETRY_DELAYS` without progress, or at once where the file is gone or denied, `StorageError`.
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
            # A stream that already failed owes nothing on close.
            with contextlib.suppress(Exception):
                stream.close()

    def close(self):
        self._drop_stream()
        super().close()


def open_file(path: str) -> io.BufferedReader:
    """The file's bytes as stored (nothing decompressed), read through passing trouble.

    Raises:
      StorageError: here or from any later read, when the storage gives up.
    """
    return io.BufferedReader(RetryingReader(path), READ_BUFFER_BYTES)


def open_seekable(path: str) -> BinaryIO:
    """The file's bytes as stored, for readers that jump about in it.

    Raises:
      StorageError: it cannot be opened.
    """
    try:
        return file_system.open_to_read(path)
    except Exception as e:
        raise StorageError(f"cannot read {path}: {cause(e)}") from e


def read_bytes(path: str) -> bytes:
    """The whole file.

    Raises:
      StorageError: it cannot be read.
    """
    with open_file(path) as stream:
        return stream.read()
