"""The width of a column of names."""

from collections.abc import Iterable

# A column of short names only has the same width in every table.
_LEAST = 12


def names_width(names: Iterable[str]) -> int:
    """Characters of a column of names: at least 12, and a space behind the longest."""
    return max([_LEAST, *(len(name) + 1 for name in names)])
