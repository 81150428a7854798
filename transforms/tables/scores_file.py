"""A shard's scores file is its commit record: fingerprint, atomic commit, reading it back.

It is published last, in one step, under a name that depends only on the shard. Its metadata states the settings and the
input it was made from. A rerun trusts nothing else.
"""

import collections
import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from odin_beam.transforms import errors
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import listing, reading, writing
from odin_beam.transforms.tables.layout import rejects_path, scores_path
from odin_beam.transforms.tables.parquet import ParquetStream, as_output_error, read_columns
from odin_beam.transforms.tables.schemas import REJECT_SCHEMA, SCORE_SCHEMA

METADATA_KEY = b"odin_beam"


@dataclass(frozen=True)
class Commit:
    """What a scores file says about its shard.

    Attributes:
      fingerprint: of the settings and the input file, see `fingerprint`.
      framed: records found in the shard; a broken tail counts as one record. Always `scored + rejected`.
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
    """SHA-256, in hex, of everything that determines a shard's rows.

    Args:
      settings: the run's settings as JSON-compatible values, including the code version.
      shard: contributes its path, size, modification time and content.
    """
    identity = [settings, shard.path, shard.size, shard.modified, type(shard.content).__name__, asdict(shard.content)]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


class ScoresWriter:
    """Streams one shard's rows to temporary files and publishes them together.

    Use it as a context manager: on exit, anything not committed is removed.

    Args:
      output: the run's folder.
      shard: the shard with these rows.
      schema: of the scores.
    """

    def __init__(self, output: str, shard: Shard, schema: pa.Schema = SCORE_SCHEMA):
        self._output = output
        self._shard = shard
        self._scores = ParquetStream(output, shard.file_name, schema)
        self._rejects = ParquetStream(output, shard.file_name, REJECT_SCHEMA)

    def __enter__(self) -> "ScoresWriter":
        return self

    def __exit__(self, *_) -> None:
        self._scores.discard()
        self._rejects.discard()

    def write(self, scores: pa.RecordBatch, rejects: list[dict[str, Any]]) -> None:
        """Appends rows of the schema, and rejects as dictionaries of `REJECT_SCHEMA` without `shard`.

        Raises:
          OutputError: the storage refused the write.
        """
        with as_output_error(self._output):
            self._scores.write(scores)
            rows = [{"shard": self._shard.path, **reject} for reject in rejects]
            self._rejects.write(pa.RecordBatch.from_pylist(rows, REJECT_SCHEMA))

    def commit(self, shard_fingerprint: str, framed: int, head: str, settings: dict[str, Any]) -> Commit:
        """Publishes the rejects, then the scores. Losing a race to an equal file is success.

        Args:
          shard_fingerprint: see `fingerprint`.
          framed: number of records found in the shard.
          head: of the classifier.
          settings: for people who open the file.

        Raises:
          OutputError: the storage refused the write.
          ValueError: scores and rejects do not add up to `framed`.
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


def read_commit(path: str) -> Commit | None:
    """The commit record of a scores file; None if there is no complete scores file."""
    try:
        with reading.open_seekable(path) as stream:
            metadata = pq.read_metadata(stream).metadata or {}
        content = json.loads(metadata[METADATA_KEY])
        commit = Commit(**{field.name: content[field.name] for field in fields(Commit)})
        return commit if all(type(getattr(commit, field.name)) is field.type for field in fields(Commit)) else None
    except Exception:
        # Whatever the error in file or storage: scoring a shard again does no harm, leaving it out does.
        return None


def read_reject_reasons(output: str, shard: Shard) -> dict[str, int]:
    """Reason -> number of the shard's records rejected for it; `unknown` if the rejects file is gone.

    Raises:
      StorageError: the storage did not answer.
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
