"""An image file in a folder or an archive, its id, and the reasons for rejecting it."""

import re
from dataclasses import dataclass

from odin_beam.transforms import limits, text

_MAX_NAME_LENGTH = 4096


@dataclass(frozen=True)
class Container:
    """A folder or archive that contains image files.

    Attributes:
      kind: `folder`, `zip`, `tar` or `tar.gz`.
      path: of the archive; for a folder, with its closing `/`.
      size: bytes of the archive, as listed.
      modified: of the archive, as listed.
    """

    kind: str
    path: str
    size: int = 0
    modified: float = 0.0


@dataclass(frozen=True)
class Member:
    """One file in a container.

    Attributes:
      container: the folder or archive that contains it.
      id: its path in there.
      place: position in a zip's directory; offset of its data in a tar (decompressed); 0 in a folder.
      size: bytes, as declared.
    """

    container: Container
    id: str
    place: int
    size: int

    @property
    def uri(self) -> str:
        """Where it is, absolute: its path, or `ARCHIVE-PATH!/ID` as in URLs of Java archives."""
        folder = self.container.path if self.container.kind == "folder" else f"{self.container.path}!/"
        return folder + self.id


@dataclass(frozen=True)
class Reject:
    """A rejected file or record.

    Attributes:
      id: the id it would have had, made printable.
      reason: why, in words.
      source: path of the archive, folder or shard that contains it.
      damage: whether the input is damaged, so that images may be missing, rather than the file not being an image.
    """

    id: str
    reason: str
    source: str
    damage: bool = False


@dataclass(frozen=True)
class MemberBytes:
    """A member's bytes, or why they are missing (`problem`; `damage` as in `Reject`)."""

    member: Member
    data: bytes | None
    problem: str | None = None
    damage: bool = False


def folder_of(member_id: str) -> str | None:
    """Name of the immediate parent folder; None for a file at the root."""
    parts = member_id.split("/")
    return parts[-2] if len(parts) > 1 else None


def printable(name: str) -> str:
    """A name in printable form: control characters and bytes that are not UTF-8 are escaped."""
    return text.printable(name[:_MAX_NAME_LENGTH])


def size_problem(size: int) -> str | None:
    if size > limits.MAX_RECORD_BYTES:
        return f"too large: {size} bytes; the limit is {limits.MAX_RECORD_BYTES}"
    return None


def member_id(name: str) -> str:
    """The id of an archive's member: its name with `/` for every separator, relative to the archive's root.

    Raises:
      ValueError: the name is not a safe path; the message says why.
    """
    if len(name) > _MAX_NAME_LENGTH:
        raise ValueError("the name is too long")
    if any(c < " " or c == "\x7f" for c in name):
        raise ValueError("the name holds control characters")
    if re.match("[A-Za-z]:", name):
        raise ValueError("the name is a path with a drive letter")
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError("the name leads out of the archive")
    if not parts:
        raise ValueError("the name is empty")
    return "/".join(parts)
