"""Counts of the shards and records of a source."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Counts:
    """Counts over some shards of a source.

    Attributes:
      shards: committed shards.
      framed: records found; `scored + rejected`.
      scored: rows in the scores files.
      rejected: rows in the rejects files.
      labelled: scored rows with a label.
      correct: labelled rows whose prediction equals the label.
    """

    shards: int = 0
    framed: int = 0
    scored: int = 0
    rejected: int = 0
    labelled: int = 0
    correct: int = 0

    @property
    def accuracy(self) -> float | None:
        """Share of labelled rows predicted correctly; None without labels."""
        return self.correct / self.labelled if self.labelled else None


def add_up(kind: type[T], counts: Iterable[T]) -> T:
    """The sum of counts, field by field; zero if there are none.

    Args:
      kind: a dataclass of numbers with default 0.
      counts: instances of it.
    """
    return kind(*map(sum, zip(*map(astuple, [kind(), *counts]), strict=True)))
