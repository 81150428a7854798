"""The assignment of image files to output shards: planned at launch, stored in a Parquet file, read by the workers.

The file has one row group per shard, so a worker reads only its own, and the job description does not grow with the
archive.
"""

import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from odin_beam.transforms import errors
from odin_beam.transforms.ingest.members import Container, Member, Reject
from odin_beam.transforms.storage import reading, writing

# Names are stored as bytes, since a file's name may not be valid UTF-8.
_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string()),
        pa.field("source", pa.binary(), nullable=False),
        pa.field("source_size", pa.int64()),
        pa.field("source_modified", pa.float64()),
        pa.field("id", pa.binary(), nullable=False),
        pa.field("place", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field("damage", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class ShardPlan:
    """One output shard.

    Attributes:
      index: the shard's number.
      members: the files that go into it, in order.
      rejects: files rejected during listing; all are in the plan of the first shard.
    """

    index: int
    members: tuple[Member, ...]
    rejects: tuple[Reject, ...] = ()


def plan_shards(members: Sequence[Member], rejects: Iterable[Reject], shards: int) -> list[ShardPlan]:
    """Splits a list into `shards` contiguous ranges whose lengths differ by at most one."""
    bounds = [index * len(members) // shards for index in range(shards + 1)]
    return [
        ShardPlan(index, tuple(members[start:stop]), () if index else tuple(rejects))
        for index, (start, stop) in enumerate(itertools.pairwise(bounds))
    ]


def write_plans(path: str, plans: Iterable[ShardPlan]) -> None:
    """Writes the plans of all shards, in order.

    Raises:
      errors.StorageError: the storage refused the write.
    """
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, _SCHEMA, compression="zstd") as writer:
        for plan in plans:
            rows = [_member_row(member) for member in plan.members] + [_reject_row(reject) for reject in plan.rejects]
            writer.write_table(pa.Table.from_pylist(rows, _SCHEMA), row_group_size=max(1, len(rows)))
    writing.write_bytes(path, buffer.getvalue())


def read_plan(path: str, index: int) -> ShardPlan:
    """Reads the plan of one shard.

    Raises:
      errors.StorageError: the plan cannot be read.
    """
    try:
        with reading.open_seekable(path) as stream:
            rows = pq.ParquetFile(stream).read_row_group(index).to_pylist()
    except errors.StorageError:
        raise
    except Exception as e:
        raise errors.StorageError(f"cannot read {path}: {errors.cause(e)}") from e
    members = tuple(_member(row) for row in rows if row["reason"] is None)
    return ShardPlan(index, members, tuple(_reject(row) for row in rows if row["reason"] is not None))


def _member_row(member: Member) -> dict:
    container = member.container
    return {
        "kind": container.kind,
        "source": container.path.encode("utf-8", "surrogateescape"),
        "source_size": container.size,
        "source_modified": container.modified,
        "id": member.id.encode("utf-8", "surrogateescape"),
        "place": member.place,
        "size": member.size,
    }


def _member(row: dict) -> Member:
    path, member_id = (row[name].decode("utf-8", "surrogateescape") for name in ("source", "id"))
    container = Container(row["kind"], path, row["source_size"], row["source_modified"])
    return Member(container, member_id, row["place"], row["size"])


def _reject_row(reject: Reject) -> dict:
    return {
        "source": reject.source.encode("utf-8", "surrogateescape"),
        "id": reject.id.encode("utf-8"),
        "reason": reject.reason,
        "damage": reject.damage,
    }


def _reject(row: dict) -> Reject:
    path = row["source"].decode("utf-8", "surrogateescape")
    return Reject(row["id"].decode("utf-8"), row["reason"], path, row["damage"])
