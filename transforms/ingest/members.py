"""One image file in a folder or an archive, its id, and why it may not be taken."""

import re
from dataclasses import dataclass

from odin_beam.transforms import limits

_MAX_NAME_LENGTH = 4096


@dataclass(frozen=True)
class Container:
    """What holds image files.

    Attributes:
      kind: `folder`, `zip`, `tar` or `tar.gz`.
      path: of the archive; of a folder with its closing `/`.
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
      container: what holds it.
      id: its path there.
      place: position in a zip's directory; offset of its data in a tar (decompressed); 0 in a folder.
      size: bytes, as declared.
    """

    container: Container
    id: str
    place: int
    size: int


@dataclass(frozen=True)
class Reject:
    """A file or record that is not taken.

    Attributes:
      id: as it would have been, made printable.
      reason: why, in words.
      source: path of the archive, folder or shard that holds it.
      damage: whether the input is at fault, and images may be missing, rather than the file being no image.
    """

    id: str
    reason: str
    source: str
    damage: bool = False


@dataclass(frozen=True)
class MemberBytes:
    """A member's bytes, or why there are none (`problem`; with `damage` as in `Reject`)."""

    member: Member
    data: bytes | None
    problem: str | None = None
    damage: bool = False


def is_hidden(member_id: str) -> bool:
    """Whether a file is one that its owner does not see."""
    return any(part.startswith(".") or part == "__MACOSX" for part in member_id.split("/"))


def folder_of(member_id: str) -> str | None:
    """Name of the immediate parent folder; None for a file at the root."""
    parts = member_id.split("/")
    return parts[-2] if len(parts) > 1 else None


def printable(name: str) -> str:
    """A name as it may be shown: control characters and bytes that are no UTF-8 as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name[:_MAX_NAME_LENGTH])


def size_problem(size: int) -> str | None:
    if size > limits.MAX_RECORD_BYTES:
        return f"too large: {size} bytes; the limit is {limits.MAX_RECORD_BYTES}"
    return None


def member_id(name: str) -> str:
    """The id of an archive's member: its name with `/` for every separator, relative to the archive's root.

    Raises:
      ValueError: the name means no harmless place; the message says why.
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
