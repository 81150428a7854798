"""The Parquet files of a shard: schema, fingerprint, atomic commit, read back.

A shard's scores file is its commit record: it is published last, whole, under a name that depends on the shard alone,
and its metadata says from what settings and what input it came. A rerun believes nothing else.
"""

import collections
import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from odin_beam.transforms import errors
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import listing, reading, writing

SCHEMA_VERSION = 2
ROW_GROUP_ROWS = 1 << 16
METADATA_KEY = b"odin_beam"
# File systems take names of 255 bytes; ours adds a digest, and a temporary one 33 bytes more.
_MAX_BASE_BYTES = 180
SCORE_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        ("offset", pa.int64()),
        pa.field("id", pa.string(), nullable=False),
        ("label", pa.int64()),
        pa.field("prediction", pa.int32(), nullable=False),
        ("odin", pa.float64()),
        ("odin_logit", pa.float64()),
        ("msp", pa.float64()),
        ("max_logit", pa.float32()),
        ("energy", pa.float32()),
        ("neg_entropy", pa.float32()),
        ("margin", pa.float32()),
        ("gen", pa.float32()),
        ("grad_norm", pa.float32()),
        ("cam_var", pa.float32()),
        ("cam_max", pa.float32()),
    ]
)
REJECT_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        ("offset", pa.int64()),
        ("id", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
DETECTORS = (
    *("odin", "msp", "max_logit", "energy", "neg_entropy", "margin"),
    *("gen", "grad_norm", "cam_var", "cam_max"),
)
# `mixed`: see `mixed_precision`.
PRECISIONS = ("float32", "mixed")


def grid_schema(cells: Sequence[str]) -> pa.Schema:
    """`SCORE_SCHEMA` with a double column for each cell of a grid in place of `odin` and `odin_logit`."""
    others = [column for column in SCORE_SCHEMA if column.name not in ("odin", "odin_logit")]
    return pa.schema([*others, *(pa.field(name, pa.float64()) for name in cells)])


@dataclass(frozen=True)
class Commit:
    """What a scores file says of its shard.

    Attributes:
      fingerprint: of the settings and the input file, see `fingerprint`.
      framed: records found in the shard; a broken tail counts as one. Always `scored + rejected`.
      scored: rows in the scores file.
      rejected: rows in the rejects file.
      head: how the classifier's logits were found.
    """

    fingerprint: str
    framed: int
    scored: int
    rejected: int
    head: str


def fingerprint(settings: dict[str, Any], shard: Shard) -> str:
    """SHA-256, in hex, of all that determines a shard's rows.

    Args:
      settings: the run's settings as JSON-able values, code version included.
      shard: its path, size, modification time and content enter.
    """
    identity = [settings, shard.path, shard.size, shard.modified, type(shard.content).__name__, asdict(shard.content)]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def output_name(path: str, first: int | None = None) -> str:
    """Base name of a shard's files: its own, and 16 hex digits of its full path's digest.

    The digest keeps shards of one base name in two folders apart. A name too long to add to is cut.

    Args:
      path: of the shard; of a virtual one the pattern that it is a part of.
      first: index of a virtual shard's first image.
    """
    base, digest = os.path.basename(path), hashlib.sha256(path.encode()).hexdigest()[:16]
    if first is not None:
        # A pattern may hold characters that file names had better not.
        base = f"{re.sub(r'[^A-Za-z0-9_.]+', '_', base).strip('_.')}-{first:09d}"
    return f"{base.encode()[:_MAX_BASE_BYTES].decode(errors='ignore')}-{digest}.parquet"


def scores_path(output: str, shard: Shard) -> str:
    """Where the shard's scores are published."""
    return FileSystems.join(output, "scores", f"source={shard.source}", shard.output_name)


def rejects_path(output: str, shard: Shard) -> str:
    """Where the shard's rejects are published, if it has any."""
    return FileSystems.join(output, "rejects", f"source={shard.source}", shard.output_name)


class OutputError(Exception):
    """The output cannot be written: no shard can succeed, so the run stops."""


class ShardWriter:
    """Streams one shard's rows to temporary files and publishes them together.

    Use as a context manager: what was not committed on leaving is removed.

    Args:
      output: the run's folder.
      shard: whose rows these are.
      schema: of the scores.
    """

    def __init__(self, output: str, shard: Shard, schema: pa.Schema = SCORE_SCHEMA):
        self._output = output
        self._shard = shard
        self._scores = ParquetStream(output, shard.output_name, schema)
        self._rejects = ParquetStream(output, shard.output_name, REJECT_SCHEMA)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, *_) -> None:
        self._scores.discard()
        self._rejects.discard()

    def write(self, scores: pa.RecordBatch, rejects: list[dict[str, Any]]) -> None:
        """Appends rows of the schema, and rejects as dictionaries of `REJECT_SCHEMA` without `shard`.

        Raises:
          OutputError: the storage refused.
        """
        with as_output_error(self._output):
            self._scores.write(scores)
            rows = [{"shard": self._shard.path, **reject} for reject in rejects]
            self._rejects.write(pa.RecordBatch.from_pylist(rows, REJECT_SCHEMA))

    def commit(self, shard_fingerprint: str, framed: int, head: str, settings: dict[str, Any]) -> Commit:
        """Publishes the rejects, then the scores. Losing a race to an equal file is success.

        Args:
          shard_fingerprint: see `fingerprint`.
          framed: records that were found in the shard.
          head: of the classifier.
          settings: for people who open the file.

        Raises:
          OutputError: the storage refused.
          ValueError: the rows are not those of `framed` records.
        """
        scored, rejected = self._scores.rows, self._rejects.rows
        if framed != scored + rejected:
            raise ValueError(f"{self._shard.path}: {framed} records, but {scored} scores and {rejected} rejects")
        commit = Commit(shard_fingerprint, framed, scored, rejected, head)
        metadata = {METADATA_KEY: json.dumps({**asdict(commit), "settings": settings}, sort_keys=True)}
        final, final_rejects = scores_path(self._output, self._shard), rejects_path(self._output, self._shard)
        with as_output_error(self._output):
            try:
                if rejected:
                    self._rejects.publish(final_rejects, metadata)
                else:
                    writing.delete([final_rejects])
                self._scores.publish(final, metadata)
            except errors.StorageError:
                if read_commit(final) != commit:
                    raise
        return commit


class ParquetStream:
    """One Parquet file, written in row groups of about `ROW_GROUP_ROWS` under a temporary name."""

    def __init__(self, output: str, name: str, schema: pa.Schema):
        self._temporary = writing.temporary_path(output, name)
        self._schema = schema
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._stream = self._writer = None
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self._pending.append(batch)
            self._pending_rows += batch.num_rows
            self.rows += batch.num_rows
        if self._pending_rows >= ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._writer is None:
            self._stream = FileSystems.create(self._temporary, compression_type=CompressionTypes.UNCOMPRESSED)
            self._writer = pq.ParquetWriter(self._stream, self._schema, compression="zstd")
        table = pa.Table.from_batches(self._pending, self._schema)
        if table.num_rows:
            # Any smaller size would make a second, tiny row group of what is above it.
            self._writer.write_table(table, row_group_size=table.num_rows)
        self._pending, self._pending_rows = [], 0

    def publish(self, final: str, metadata: dict[bytes, str]) -> None:
        self._flush()
        self._writer.add_key_value_metadata(metadata)
        self._close()
        writing.publish(self._temporary, final)

    def _close(self) -> None:
        writer, stream, self._writer, self._stream = self._writer, self._stream, None, None
        try:
            if writer is not None:
                writer.close()
        finally:
            if stream is not None:
                stream.close()

    def discard(self) -> None:
        # What went wrong before is the error to report, not that the remains would not go.
        with contextlib.suppress(Exception):
            self._close()
        with contextlib.suppress(Exception):
            writing.delete([self._temporary])


@contextlib.contextmanager
def as_output_error(output: str) -> Iterator[None]:
    try:
        yield
    except Exception as e:
        # Cloud storage raises errors that are no OSError, straight through Arrow.
        raise OutputError(f"cannot write to {output}: {errors.cause(e)}") from e


def read_commit(path: str) -> Commit | None:
    """The commit record of a scores file, or None where there is no whole file of this kind."""
    try:
        with reading.open_seekable(path) as stream:
            metadata = pq.read_metadata(stream).metadata or {}
        said = json.loads(metadata[METADATA_KEY])
        commit = Commit(**{field.name: said[field.name] for field in fields(Commit)})
        return commit if all(type(getattr(commit, field.name)) is field.type for field in fields(Commit)) else None
    except Exception:
        # Whatever is wrong with it or with its storage: a shard scored again does no harm, one left out does.
        return None


def read_reject_reasons(output: str, shard: Shard) -> dict[str, int]:
    """Reason -> how many of the shard's records were rejected for it; `unknown` where their file is gone.

    Raises:
      StorageError: the storage would not say.
    """
    commit = read_commit(scores_path(output, shard))
    if commit is None or not commit.rejected:
        return {}
    path = rejects_path(output, shard)
    if listing.stat_file(path) is None:
        return {"unknown": commit.rejected}
    counts: collections.Counter[str] = collections.Counter()
    for table in read_columns(path, ["reason"]):
        counts.update(table["reason"].to_pylist())
    return dict(counts)


def read_columns(path: str, columns: list[str]) -> Iterator[pa.Table]:
    """Some columns of a scores or rejects file, one row group at a time.

    Raises:
      StorageError: the file cannot be read.
    """
    try:
        with reading.open_seekable(path) as stream:
            file = pq.ParquetFile(stream)
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns)
    except errors.StorageError:
        raise
    except Exception as e:
        raise errors.StorageError(f"cannot read {path}: {errors.cause(e)}") from e
