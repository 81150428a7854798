"""Which files there are, and their sizes."""

import os
from dataclasses import dataclass

from apache_beam.io.filesystems import FileSystems

from odin_beam.transforms.errors import StorageError, cause
from odin_beam.transforms.storage.paths import is_local


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
