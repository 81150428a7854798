"""The files that a folder, a glob or a single path stands for; links are followed."""

import re
from dataclasses import dataclass, replace

from odin_beam.transforms.storage import listing
from odin_beam.transforms.storage.file_system import FileStat
from odin_beam.transforms.storage.litter import is_skipped

_FIXED_PART = re.compile(r"[^*?[]*")


@dataclass(frozen=True)
class Matched:
    """The files that a pattern stands for.

    Attributes:
      root: the folder or the fixed part of the glob, with its closing `/`.
      files: sorted by path.
      is_folder: whether the pattern is a folder.
    """

    root: str
    files: tuple[FileStat, ...]
    is_folder: bool = False

    def without_skipped(self) -> "Matched":
        """The same without hidden files and litter; see `litter.is_skipped`."""
        return replace(self, files=tuple(file for file in self.files if not is_skipped(self.name(file))))

    def name(self, file: FileStat) -> str:
        """A file's path relative to the root."""
        return file.path.removeprefix(self.root)


def match_files(pattern: str) -> Matched:
    """Lists a folder (and everything below it), a glob, or a single file, whose name may hold glob characters.

    Raises:
      StorageError: the listing failed.
    """
    fixed = _FIXED_PART.match(pattern)[0]
    folder = pattern.rstrip("/") + "/"
    if fixed != pattern and listing.stat_file(pattern) is None:
        return Matched(_parent(fixed), tuple(listing.list_files(pattern, follow_links=True)))
    if files := _list_literally(folder, "**"):
        return Matched(folder, tuple(files), is_folder=True)
    return Matched(_parent(pattern), tuple(_list_literally(pattern)))


def escaped(pattern: str) -> str | None:
    """The pattern with glob characters escaped where a file or folder has that literal name; None if none has.

    Raises:
      StorageError: the storage did not answer.
    """
    changed, literal, parts = [], [], pattern.split("/")
    for part in parts:
        literal.append(part)
        is_literal = _FIXED_PART.fullmatch(part) is None and listing.stat_file("/".join(literal)) is not None
        changed.append(re.sub(r"[*?[]", lambda found: f"[{found[0]}]", part) if is_literal else part)
    return None if changed == parts else "/".join(changed)


def _list_literally(start: str, glob: str = "") -> list[FileStat]:
    """Files by a path that may itself contain glob characters, which Beam cannot escape."""
    listed = listing.list_files(re.sub(r"[*?[]", "?", start) + glob, follow_links=True)
    return [file for file in listed if file.path.startswith(start)]


def _parent(path: str) -> str:
    return path.rpartition("/")[0] + "/"
