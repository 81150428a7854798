"""What the rest of the storage is made of: the system's own calls for local files, Beam's file systems for all others.

Beam imports every cloud's client when it first looks at any path, which takes seconds, so local paths never get there.
"""

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO


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


def scheme(path: str) -> str | None:
    """`gs` of `gs://bucket/object`; None for a local path."""
    found = re.match(r"([a-zA-Z][-a-zA-Z0-9+.]*)://", path)
    return found[1] if found else None


def is_local(path: str) -> bool:
    """Whether the path lies on the local file system."""
    return scheme(path) is None


def open_to_read(path: str) -> BinaryIO:
    """The bytes as stored; nothing is decompressed."""
    if is_local(path):
        return open(path, "rb")
    return _beam().open(path, compression_type="uncompressed")


def create(path: str) -> BinaryIO:
    """A stream into a new file, its local folder included; nothing is compressed."""
    if is_local(path):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return open(path, "wb")
    return _beam().create(path, compression_type="uncompressed")


def rename(source: str, destination: str) -> None:
    """Moves a file in one step, replacing what was there."""
    if is_local(source) and is_local(destination):
        os.replace(source, destination)
    else:
        _beam().rename([source], [destination])


def exists(path: str) -> bool:
    """Whether there is such a file or local folder."""
    return os.path.exists(path) if is_local(path) else _beam().exists(path)


def stat(path: str) -> FileStat:
    """Of a file that exists."""
    if is_local(path):
        found = os.stat(path)
        return FileStat(path, found.st_size, found.st_mtime)
    metadata = _beam().get_filesystem(path).metadata(path)
    return FileStat(path, metadata.size_in_bytes, metadata.last_updated_in_seconds or 0.0)


def match(pattern: str) -> list[FileStat]:
    """The files that match a glob, in any order.

    `*` stands for any characters but `/`, `**` for any at all, `?` for one, `[...]` for one of a set; nothing quotes
    them. That is Beam's reading, which every file system then shares.
    """
    if is_local(pattern):
        return list(_match_local(pattern))
    found = _beam().match([pattern])[0].metadata_list
    return [FileStat(m.path, m.size_in_bytes, m.last_updated_in_seconds or 0.0) for m in found]


def delete(path: str) -> None:
    """Removes an object of remote storage, by its literal name."""
    # Beam takes a path for a glob: of `run[1]` it would remove nothing, of `run*` the neighbours too.
    _beam().delete([glob.escape(path)])


def check_served(path: str) -> None:
    """Raises where nothing that is installed serves the path's scheme."""
    if not is_local(path):
        _beam().get_filesystem(path)


def _beam():
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def _match_local(pattern: str) -> Iterator[FileStat]:
    fixed = re.match(r"[^*?[]*", pattern)[0]
    if fixed == pattern:
        if os.path.exists(pattern):
            yield stat(pattern)
        return
    expression = _expression(pattern)
    root = os.path.dirname(fixed)
    # Only `**`, `?` and sets reach across a `/`.
    deepest = None if re.search(r"\*\*|[?[]", pattern) else pattern.count("/")
    for folder, folders, names in os.walk(root):
        if deepest is not None and os.path.join(folder, "").count("/") >= deepest:
            folders.clear()
        for name in names:
            path = os.path.join(folder, name)
            if expression.fullmatch(path):
                try:
                    yield stat(path)
                except OSError:
                    # It has disappeared since, or its link leads nowhere.
                    continue


def matches(pattern: str, path: str) -> bool:
    """Whether a glob matches a path, see `match`."""
    return bool(_expression(pattern).fullmatch(path))


def _expression(pattern: str) -> re.Pattern:
    tokens = re.split(r"(\*\*|\*|\?|\[!?\]?[^\]]*\])", pattern)
    return re.compile("".join(_token(t) if i % 2 else re.escape(t) for i, t in enumerate(tokens)), re.DOTALL)


def _token(token: str) -> str:
    if not token.startswith("["):
        return {"**": ".*", "*": r"[^/\\]*", "?": "."}[token]
    inside = token[1:-1].replace("\\", "\\\\")
    if inside.startswith("!"):
        inside = f"^{inside[1:]}"
    elif inside.startswith("^"):
        inside = f"\\{inside}"
    return f"[{inside}]"
