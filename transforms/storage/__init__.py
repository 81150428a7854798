"""Files on any file system that Beam knows: list them, read them through passing trouble, publish them whole."""

import contextlib
import errno
import glob
import io
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import BinaryIO

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

# Seconds before each new attempt at a failed read; after the last one the file counts as unreadable.
RETRY_DELAYS = (0.5, 1.0, 2.0, 4.0, 8.0)
# Marks what is not finished: a name that nobody else gives to a file, so that it is ours to remove.
TEMPORARY = "odin-beam-tmp"
READ_BUFFER_BYTES = 1 << 20


class StorageError(Exception):
    """A file could not be listed, read or written; the message names it."""


class NoSuchFile(StorageError):
    """There is no file of that name, and another attempt would not find one."""


@dataclass(frozen=True)
class FileStat:
    """What a listing says of a file.

    Attributes:
      path: full path.
      size: bytes.
      modified: seconds since the epoch.
    """

    path: str
    size: int
    modified: float


def absolute_path(path: str) -> str:
    """The path as every worker understands it: local ones made absolute, `scheme://` ones as they are."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def is_local(path: str) -> bool:
    """Whether the path lies on the local file system."""
    return FileSystems.get_scheme(path) is None


def list_files(pattern: str) -> list[FileStat]:
    """Every file that matches a glob, sorted by path, without duplicates; empty when nothing matches.

    Folders are no files, nor are the objects whose names end in `/` by which cloud consoles mark them.

    Raises:
      StorageError: the listing itself failed.
    """
    if is_local(pattern) and os.path.isdir(pattern):
        return []
    try:
        found = FileSystems.match([pattern])[0].metadata_list
    except Exception as e:
        raise StorageError(f"cannot list {pattern}: {cause(e)}") from e
    files = (m for m in found if not m.path.endswith("/"))
    stats = {m.path: FileStat(m.path, m.size_in_bytes, m.last_updated_in_seconds or 0.0) for m in files}
    return [stats[path] for path in sorted(stats)]


def stat_file(path: str) -> FileStat | None:
    """The file's size and modification time, or None when there is no such file.

    Raises:
      StorageError: the storage would not say.
    """
    try:
        if not FileSystems.exists(path):
            return None
        file_system = FileSystems.get_filesystem(path)
        metadata = file_system.metadata(path)
    except Exception as e:
        raise StorageError(f"cannot look at {path}: {cause(e)}") from e
    return FileStat(path, metadata.size_in_bytes, metadata.last_updated_in_seconds or 0.0)


def cause(error: BaseException) -> str:
    """The innermost reason of an error, in one line: Beam wraps the storage's own words in dictionaries and errors."""
    while True:
        if isinstance(error, BeamIOError) and error.exception_details:
            error = next(iter(error.exception_details.values()))
        elif isinstance(error, OSError) and error.args and isinstance(error.args[0], Exception):
            error = error.args[0]
        else:
            break
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    text = text.removesuffix(" with exceptions None")
    return " ".join(text.split())[:300]


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
                    self._stream = FileSystems.open(self._path, compression_type=CompressionTypes.UNCOMPRESSED)
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
        return FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    except Exception as e:
        raise StorageError(f"cannot read {path}: {cause(e)}") from e


def read_bytes(path: str) -> bytes:
    """The whole file.

    Raises:
      StorageError: it cannot be read.
    """
    with open_file(path) as stream:
        return stream.read()


def temporary_path(output: str, name: str) -> str:
    """A path of its own for each attempt at the file of that name, in a folder where no reader of results looks."""
    return FileSystems.join(output, TEMPORARY, f"{name}.{uuid.uuid4().hex}")


def publish(temporary: str, final: str) -> None:
    """Moves a finished temporary file to its final name in one step, replacing what was there.

    Raises:
      StorageError: the temporary file is gone, or the storage refused.
    """
    try:
        if is_local(final):
            os.makedirs(os.path.dirname(final), exist_ok=True)
        FileSystems.rename([temporary], [final])
    except Exception as e:
        raise StorageError(f"cannot write {final}: {cause(e)}") from e


def write_bytes(path: str, data: bytes) -> None:
    """Writes a small file whole or not at all, by way of a temporary file beside it.

    Raises:
      StorageError: the storage refused.
    """
    _write_whole(path, io.BytesIO(data))


def copy_from_local(local: str, path: str) -> None:
    """Copies a local file of any size, whole or not at all.

    Raises:
      StorageError: the storage refused.
    """
    with open(local, "rb") as source:
        _write_whole(path, source)


def _write_whole(path: str, source: BinaryIO, again: bool = True) -> None:
    temporary = f"{path}.{uuid.uuid4().hex}.{TEMPORARY}"
    try:
        with FileSystems.create(temporary, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
            shutil.copyfileobj(source, stream, READ_BUFFER_BYTES)
        publish(temporary, path)
    except StorageError:
        if not again or stat_file(temporary) is not None:
            raise
        # Another run on the same folder has just ended, and has taken away what it found unfinished.
        source.seek(0)
        _write_whole(path, source, again=False)
    except Exception as e:
        raise StorageError(f"cannot write {path}: {cause(e)}") from e
    finally:
        delete([temporary])


def delete_temporary(output: str, names: Collection[str]) -> None:
    """Removes what attempts at the files of these names have left, and unfinished small files of the folder itself.

    Raises:
      StorageError: the storage refused.
    """
    folder = FileSystems.join(output, TEMPORARY)
    left = [stat.path for stat in list_files(FileSystems.join(folder, "*"))]
    delete(path for path in left if path.rpartition("/")[2].rpartition(".")[0] in names)
    delete(stat.path for stat in list_files(FileSystems.join(output, f"*.{TEMPORARY}")))
    if is_local(folder):
        # Another run may be at work in it.
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def delete(paths: Iterable[str]) -> None:
    """Removes files and local folders, each by its literal name; those that are not there are no error.

    Raises:
      StorageError: the storage refused.
    """
    for path in paths:
        try:
            if FileSystems.exists(path):
                _delete_existing(path)
        except Exception as e:
            if stat_file(path) is not None:
                raise StorageError(f"cannot remove {path}: {cause(e)}") from e


def _delete_existing(path: str) -> None:
    # `FileSystems.delete` takes a path for a glob: of `run[1]` it would remove nothing, of `run*` the neighbours too.
    if not is_local(path):
        FileSystems.delete([glob.escape(path)])
    elif os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.remove(path)


def delete_folder(folder: str) -> None:
    """Removes every file below a folder, and locally the folder too.

    Raises:
      StorageError: the storage refused.
    """
    if is_local(folder):
        delete([folder])
    else:
        delete(stat.path for stat in list_files(FileSystems.join(folder, "**")))
