"""What was counted in the shards of a source."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Counts:
    """What was counted in some shards of a source.

    Attributes:
      shards: committed.
      framed: records found; `scored + rejected`.
      scored: rows in the scores files.
      rejected: rows in the rejects files.
      labelled: scored rows with a label.
      correct: labelled rows whose prediction is the label.
    """

    shards: int = 0
    framed: int = 0
    scored: int = 0
    rejected: int = 0
    labelled: int = 0
    correct: int = 0

    @property
    def accuracy(self) -> float | None:
        """Share of labelled rows predicted right; None without labels."""
        return self.correct / self.labelled if self.labelled else None


def add_up(kind: type[T], counts: Iterable[T]) -> T:
    """The sum of counts, field by field; of none it is zero.

    Args:
      kind: a dataclass of numbers that are 0 by default.
      counts: of that kind.
    """
    return kind(*map(sum, zip(*map(astuple, [kind(), *counts]), strict=True)))
