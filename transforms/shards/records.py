"""One image's bytes as stored in a shard, and batches of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from odin_beam.transforms import limits


@dataclass(frozen=True)
class Record:
    """One image's bytes as stored in a shard, or a place where they cannot be read.

    Attributes:
      index: position in the TFRecord file, in the list of images or in the noise, from 0.
      offset: byte offset of the record's header; None if it has no header, or in a compressed shard.
      payload: the record's bytes; None if they cannot be trusted.
      problem: why the payload is missing: `(reason, detail)`; None for a good record.
      id: as given in a list of images; None for an Example, which contains its id.
      label: likewise.
      uri: of the file, absolute, as given in a list of images; None for any other record.
      partner: another good record of the shard, for surrogates made from two images.
    """

    index: int
    offset: int | None
    payload: bytes | None
    problem: tuple[str, str] | None = None
    id: str | None = None
    label: int | None = None
    partner: "Record | None" = None
    uri: str | None = None


def batches(records: Iterable[Record], batch_size: int) -> Iterator[list[Record]]:
    """Consecutive records in lists of `batch_size`; shorter at the end, or when `MAX_BATCH_BYTES` is reached."""
    batch, batch_bytes = [], 0
    for record in records:
        batch.append(record)
        batch_bytes += len(record.payload or b"")
        if len(batch) == batch_size or batch_bytes >= limits.MAX_BATCH_BYTES:
            yield batch
            batch, batch_bytes = [], 0
    if batch:
        yield batch
