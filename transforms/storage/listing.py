"""Which files exist, and how large they are."""

import os

from odin_beam.transforms.errors import StorageError, cause
from odin_beam.transforms.storage import file_system
from odin_beam.transforms.storage.file_system import FileStat, is_local


def list_files(pattern: str, follow_links: bool = False) -> list[FileStat]:
    """All files that match a glob, sorted by path, without duplicates; empty if nothing matches.

    Folders do not count as files, and neither do the objects ending in `/` that cloud consoles create to mark folders.

    Args:
      pattern: the glob.
      follow_links: see `file_system.match`; only for reading.

    Raises:
      StorageError: the listing failed.
    """
    if is_local(pattern) and os.path.isdir(pattern):
        return []
    try:
        matched = file_system.match(pattern, follow_links)
    except Exception as e:
        raise StorageError(f"cannot list {pattern}: {cause(e)}") from e
    stats = {stat.path: stat for stat in matched if not stat.path.endswith("/")}
    return [stats[path] for path in sorted(stats)]


def stat_file(path: str) -> FileStat | None:
    """The file's size and modification time, or None if it does not exist.

    Raises:
      StorageError: the storage did not answer.
    """
    try:
        return file_system.stat(path) if file_system.exists(path) else None
    except Exception as e:
        raise StorageError(f"cannot look up {path}: {cause(e)}") from e
