"""One image's bytes as a shard holds them, and batches of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from odin_beam.transforms import limits


@dataclass(frozen=True)
class Record:
    """One image's bytes as a shard holds them, or the one place where they cannot be had.

    Attributes:
      index: position in the TFRecord file, in the list of images or in the noise, from 0.
      offset: byte offset of the record's header; None where there is none, or in a compressed shard.
      payload: the record's bytes; None where they cannot be trusted.
      problem: why there is no payload: `(reason, detail)`; None for a good record.
      id: as a list of images gives it; None for an Example, which says it itself.
      label: likewise.
      partner: another good record of the shard, for what is made of two images.
    """

    index: int
    offset: int | None
    payload: bytes | None
    problem: tuple[str, str] | None = None
    id: str | None = None
    label: int | None = None
    partner: "Record | None" = None


def batches(records: Iterable[Record], batch_size: int) -> Iterator[list[Record]]:
    """Consecutive records in lists of `batch_size`; shorter at the end, or where `MAX_BATCH_BYTES` is reached."""
    batch, held = [], 0
    for record in records:
        batch.append(record)
        held += len(record.payload or b"")
        if len(batch) == batch_size or held >= limits.MAX_BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
