"""Writes files completely or not at all, and removes them."""

import contextlib
import errno
import io
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable
from typing import BinaryIO

from odin_beam.transforms.errors import FileExists, StorageError, cause
from odin_beam.transforms.storage import file_system
from odin_beam.transforms.storage.listing import list_files, stat_file
from odin_beam.transforms.storage.paths import is_local, join
from odin_beam.transforms.storage.reading import READ_BUFFER_BYTES

# Marks unfinished files. No other program uses this name, so these files are ours to remove.
TEMPORARY = "odin-beam-tmp"
# How file systems without hard links refuse one.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def temporary_path(output: str, name: str) -> str:
    """A new path for each attempt at writing the file of that name, in a folder that readers of results ignore."""
    return join(output, TEMPORARY, f"{name}.{uuid.uuid4().hex}")


def publish(temporary: str, final: str) -> None:
    """Moves a finished temporary file to its final name in one step, replacing any file there.

    Raises:
      StorageError: the temporary file is gone, or the storage refused the move.
    """
    try:
        if is_local(final):
            os.makedirs(os.path.dirname(final), exist_ok=True)
        file_system.rename(temporary, final)
    except Exception as e:
        raise StorageError(f"cannot write {final}: {cause(e)}") from e


def write_bytes(path: str, data: bytes) -> None:
    """Writes a small file completely or not at all, through a temporary file beside it.

    Raises:
      StorageError: the storage refused the write.
    """
    _write_whole(path, io.BytesIO(data))


def write_streamed(path: str, write: Callable[[BinaryIO], None]) -> None:
    """Writes a file of any size completely or not at all, without a copy of it in memory.

    Args:
      path: of the file.
      write: writes the content to a stream, which may lack seeks.

    Raises:
      StorageError: the storage refused the write.
    """
    temporary = f"{path}.{uuid.uuid4().hex}.{TEMPORARY}"
    try:
        with file_system.create(temporary) as stream:
            write(stream)
        publish(temporary, path)
    except StorageError:
        raise
    except OSError as e:
        raise StorageError(f"cannot write {path}: {cause(e)}") from e
    finally:
        delete([temporary])


def write_bytes_if_absent(path: str, data: bytes) -> bool:
    """Writes a small file completely, unless a file of that name exists; returns whether it was written.

    If several callers write one local path at the same time, exactly one of them succeeds. Object stores cannot promise
    that through Beam: there several may succeed, and the file is the last one's.

    Raises:
      StorageError: the storage refused the write.
    """
    if not is_local(path):
        if stat_file(path) is not None:
            return False
        write_bytes(path, data)
        return True
    try:
        _write_whole(path, io.BytesIO(data), _publish_if_absent)
    except FileExists:
        return False
    return True


def _publish_if_absent(temporary: str, final: str) -> None:
    """Gives a finished local file a second name, its final one, in one step.

    Raises:
      FileExists: there is a file of that name.
      StorageError: the file system refused.
    """
    try:
        try:
            os.link(temporary, final)
        except OSError as e:
            if e.errno not in _NO_LINKS:
                raise
            with open(temporary, "rb") as source, open(final, "xb", buffering=0) as stream:
                stream.write(source.read())
    except FileExistsError as e:
        raise FileExists(f"{final} exists") from e
    except OSError as e:
        raise StorageError(f"cannot write {final}: {cause(e)}") from e


def copy_from_local(local: str, path: str) -> None:
    """Copies a local file of any size, completely or not at all.

    Raises:
      StorageError: the storage refused the write.
    """
    with open(local, "rb") as source:
        _write_whole(path, source)


def _write_whole(
    path: str, source: BinaryIO, place: Callable[[str, str], None] | None = None, again: bool = True
) -> None:
    temporary = f"{path}.{uuid.uuid4().hex}.{TEMPORARY}"
    try:
        with file_system.create(temporary) as stream:
            shutil.copyfileobj(source, stream, READ_BUFFER_BYTES)
        (place or publish)(temporary, path)
    except StorageError:
        if not again or stat_file(temporary) is not None:
            raise
        # Another run in the same folder has just ended and removed the unfinished files it saw.
        source.seek(0)
        _write_whole(path, source, place, again=False)
    except Exception as e:
        raise StorageError(f"cannot write {path}: {cause(e)}") from e
    finally:
        delete([temporary])


def delete_temporary(output: str, names: Collection[str]) -> None:
    """Removes the leftovers of attempts at writing files of these names, and the folder's own unfinished small files.

    Raises:
      StorageError: the storage refused the removal.
    """
    folder = join(output, TEMPORARY)
    leftovers = [stat.path for stat in list_files(join(folder, "*"))]
    delete(path for path in leftovers if path.rpartition("/")[2].rpartition(".")[0] in names)
    delete(stat.path for stat in list_files(join(output, f"*.{TEMPORARY}")))
    if is_local(folder):
        # Another run may be using the folder.
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def delete(paths: Iterable[str]) -> None:
    """Removes files and local folders, each by its literal name; missing paths are ignored.

    Raises:
      StorageError: the storage refused the removal.
    """
    for path in paths:
        try:
            if file_system.exists(path):
                _delete_existing(path)
        except Exception as e:
            if stat_file(path) is not None:
                raise StorageError(f"cannot remove {path}: {cause(e)}") from e


def _delete_existing(path: str) -> None:
    if not is_local(path):
        file_system.delete(path)
    elif os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.remove(path)


def delete_folder(folder: str) -> None:
    """Removes every file below a folder; a local folder itself is removed too.

    Raises:
      StorageError: the storage refused the removal.
    """
    if is_local(folder):
        delete([folder])
    else:
        delete(stat.path for stat in list_files(join(folder, "**")))
