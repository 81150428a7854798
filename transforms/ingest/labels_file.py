"""`labels.txt`: names of classes, one per line; the line's number, from 0, is the label."""

from collections.abc import Iterable

LABELS_FILE = "labels.txt"


def class_names_in(data: bytes) -> list[str]:
    """The lines of a labels file; empty ones at the end do not count.

    Only a newline ends a line: names of folders may contain all else that `str.splitlines` would split at. Bytes that
    are not UTF-8 become lone surrogates.
    """
    lines = data.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n").rstrip("\n")
    return lines.split("\n") if lines else []


def labels_file(names: Iterable[str]) -> bytes:
    """The content of a labels file, from which `class_names_in` gives the same names."""
    return "".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape")
