"""Which files there are, and their sizes."""

import os

from odin_beam.transforms.errors import StorageError, cause
from odin_beam.transforms.storage import file_system
from odin_beam.transforms.storage.file_system import FileStat, is_local


def list_files(pattern: str) -> list[FileStat]:
    """Every file that matches a glob, sorted by path, without duplicates; empty when nothing matches.

    Folders are no files, nor are the objects whose names end in `/` by which cloud consoles mark them.

    Raises:
      StorageError: the listing itself failed.
    """
    if is_local(pattern) and os.path.isdir(pattern):
        return []
    try:
        found = file_system.match(pattern)
    except Exception as e:
        raise StorageError(f"cannot list {pattern}: {cause(e)}") from e
    stats = {stat.path: stat for stat in found if not stat.path.endswith("/")}
    return [stats[path] for path in sorted(stats)]


def stat_file(path: str) -> FileStat | None:
    """The file's size and modification time, or None when there is no such file.

    Raises:
      StorageError: the storage would not say.
    """
    try:
        return file_system.stat(path) if file_system.exists(path) else None
    except Exception as e:
        raise StorageError(f"cannot look at {path}: {cause(e)}") from e
