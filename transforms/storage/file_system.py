"""The base of the storage layer: operating system calls for local files, Beam's file systems for everything else.

Beam imports every cloud client the first time it sees a path, which takes seconds, so local paths never go through it.
"""

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

# What is in them is made by the kernel: some of it calls itself a regular file, and has no end.
KERNEL_FOLDERS = ("/proc/", "/sys/", "/dev/fd/")


@dataclass(frozen=True)
class FileStat:
    """What a listing says about a file.

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
    matched = re.match(r"([a-zA-Z][-a-zA-Z0-9+.]*)://", path)
    return matched[1] if matched else None


def is_local(path: str) -> bool:
    """Whether the path is on the local file system."""
    return scheme(path) is None


def open_to_read(path: str) -> BinaryIO:
    """Opens a file for reading its bytes as stored; nothing is decompressed."""
    if is_local(path):
        return open(path, "rb")
    return _beam().open(path, compression_type="uncompressed")


def create(path: str) -> BinaryIO:
    """Opens a new file for writing, creating its local folder if needed; nothing is compressed."""
    if is_local(path):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        return open(path, "wb")
    return _beam().create(path, compression_type="uncompressed")


def rename(source: str, destination: str) -> None:
    """Moves a file in one step, replacing any file at the destination."""
    if is_local(source) and is_local(destination):
        os.replace(source, destination)
    else:
        _beam().rename([source], [destination])


def exists(path: str) -> bool:
    """Whether the file or local folder exists."""
    return os.path.exists(path) if is_local(path) else _beam().exists(path)


def stat(path: str) -> FileStat:
    """Size and modification time of an existing file."""
    if is_local(path):
        status = os.stat(path)
        return FileStat(path, status.st_size, status.st_mtime)
    metadata = _beam().get_filesystem(path).metadata(path)
    return FileStat(path, metadata.size_in_bytes, metadata.last_updated_in_seconds or 0.0)


def match(pattern: str, follow_links: bool = False) -> list[FileStat]:
    """The files that match a glob, in any order.

    `*` matches any characters except `/`, `**` any characters at all, `?` one character, `[...]` one of a set; there is
    no escape character. This is how Beam reads globs, so that all file systems agree, but for `/**/`, which here
    matches `/` too, as in a shell.

    Args:
      pattern: the glob.
      follow_links: whether to descend into folders that are symbolic links, and to return broken links as empty files.
        Only for reading: what is behind a link must not be removed.
    """
    if is_local(pattern):
        return list(_match_local(pattern, follow_links))
    files = _beam().match([pattern.replace("/**/", "/**")])[0].metadata_list
    stats = [FileStat(m.path, m.size_in_bytes, m.last_updated_in_seconds or 0.0) for m in files]
    return [stat for stat in stats if matches(pattern, stat.path)] if "/**/" in pattern else stats


def delete(path: str) -> None:
    """Removes an object from remote storage, by its literal name."""
    # Beam takes the path for a glob: `run[1]` would remove nothing, `run*` would remove its neighbours too.
    _beam().delete([glob.escape(path)])


def check_served(path: str) -> None:
    """Raises if no installed file system serves the path's scheme."""
    if not is_local(path):
        _beam().get_filesystem(path)


def _beam():
    from apache_beam.io.filesystems import FileSystems

    return FileSystems


def _match_local(pattern: str, follow_links: bool) -> Iterator[FileStat]:
    fixed = re.match(r"[^*?[]*", pattern)[0]
    if fixed == pattern:
        if os.path.exists(pattern):
            yield stat(pattern)
        elif follow_links and os.path.islink(pattern):
            yield FileStat(pattern, 0, 0.0)
        return
    expression = _expression(pattern)
    root = os.path.dirname(fixed)
    # Only `**`, `?` and sets match a `/`.
    deepest = None if re.search(r"\*\*|[?[]", pattern) else pattern.count("/")
    entered = {root: (os.path.realpath(root),)}
    for folder, folders, names in os.walk(root, followlinks=follow_links):
        if deepest is not None and os.path.join(folder, "").count("/") >= deepest:
            folders.clear()
        if follow_links:
            _leave_out_loops(folder, folders, entered)
        for name in names:
            path = os.path.join(folder, name)
            if expression.fullmatch(path):
                try:
                    yield stat(path)
                except OSError:
                    # The file has disappeared since, or is a broken link.
                    if follow_links and os.path.islink(path):
                        yield FileStat(path, 0, 0.0)


def _leave_out_loops(folder: str, folders: list[str], entered: dict[str, tuple[str, ...]]) -> None:
    """Removes from a folder's subfolders the links that lead back up, or to what the kernel makes.

    Args:
      folder: where the walk is.
      folders: names of its subfolders; changed.
      entered: for the root and every link followed, the real paths of the links above it and its own; changed.
    """
    links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
    if not links:
        return
    above = next(real for start, real in reversed(entered.items()) if folder == start or _is_below(folder, start))
    here = (*above, os.path.realpath(folder))
    for name in links:
        path = os.path.join(folder, name)
        target = os.path.realpath(path)
        if _is_kernels(target) or any(real == target or _is_below(real, target) for real in here):
            folders.remove(name)
        else:
            entered[path] = (*here, target)


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(os.path.join(folder, ""))


def _is_kernels(path: str) -> bool:
    return os.path.join(path, "").startswith(KERNEL_FOLDERS)


def matches(pattern: str, path: str) -> bool:
    """Whether a glob matches a path; see `match`."""
    return bool(_expression(pattern).fullmatch(path))


def _expression(pattern: str) -> re.Pattern:
    tokens = re.split(r"((?<=/)\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\])", pattern)
    return re.compile("".join(_token(t) if i % 2 else re.escape(t) for i, t in enumerate(tokens)), re.DOTALL)


def _token(token: str) -> str:
    if not token.startswith("["):
        return {"**/": "(?:.*/)?", "**": ".*", "*": r"[^/\\]*", "?": "."}[token]
    inside = token[1:-1].replace("\\", "\\\\").replace("[", "\\[")
    if inside.startswith("!"):
        inside = f"^{inside[1:]}"
    elif inside.startswith("^"):
        inside = f"\\{inside}"
    return f"[{inside}]"
