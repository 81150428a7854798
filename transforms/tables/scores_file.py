"""A shard's scores file is its commit record: fingerprint, atomic commit, reading it back.

It is published last, in one step, under a name that depends only on the shard. Its metadata states the settings and the
input it was made from. A rerun trusts nothing else.
"""

import collections
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from odin_beam.transforms import errors
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import listing, reading, writing
from odin_beam.transforms.tables.layout import FEATURES, SCORES, rejects_path, rows_path
from odin_beam.transforms.tables.parquet import ParquetStream, as_output_error, read_columns
from odin_beam.transforms.tables.schemas import LATER_COLUMNS, REJECT_SCHEMA, SCORE_SCHEMA, SPLIT_COLUMNS

METADATA_KEY = b"odin_beam"
_KNOWN = {column.name: column for column in [*SCORE_SCHEMA, *SPLIT_COLUMNS]}


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
      schema: of the rows.
      table: to publish them in, `layout.SCORES` or `layout.FEATURES`.
      features_schema: of rows of features that are kept beside those; None if none are.
    """

    def __init__(
        self,
        output: str,
        shard: Shard,
        schema: pa.Schema = SCORE_SCHEMA,
        table: str = SCORES,
        features_schema: pa.Schema | None = None,
    ):
        self._output = output
        self._table = table
        self._shard = shard
        self._scores = ParquetStream(output, shard.file_name, schema)
        self._rejects = ParquetStream(output, shard.file_name, REJECT_SCHEMA)
        self._features = None if features_schema is None else ParquetStream(output, shard.file_name, features_schema)

    def __enter__(self) -> "ScoresWriter":
        return self

    def __exit__(self, *_) -> None:
        self._scores.discard()
        self._rejects.discard()
        if self._features is not None:
            self._features.discard()

    def write(
        self, scores: pa.RecordBatch, rejects: list[dict[str, Any]], features: pa.RecordBatch | None = None
    ) -> None:
        """Appends rows of the schema, and rejects as dictionaries of `REJECT_SCHEMA` without `shard`.

        Args:
          scores: rows of the schema.
          rejects: of the same part of the shard.
          features: rows of the features' schema, of the same images as the scores; None without such a schema.

        Raises:
          OutputError: the storage refused the write.
        """
        with as_output_error(self._output):
            self._scores.write(scores)
            rows = [{"shard": self._shard.path, **reject} for reject in rejects]
            self._rejects.write(pa.RecordBatch.from_pylist(rows, REJECT_SCHEMA))
            if self._features is not None:
                self._features.write(features)

    def commit(self, shard_fingerprint: str, framed: int, head: str, settings: dict[str, Any]) -> Commit:
        """Publishes the rejects, then any features, then the scores. Losing a race to an equal file is success.

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
        final = rows_path(self._output, self._shard, self._table)
        final_rejects = rejects_path(self._output, self._shard)
        finals = [final]
        with as_output_error(self._output):
            try:
                if rejected:
                    self._rejects.publish(final_rejects, metadata)
                else:
                    writing.delete([final_rejects])
                if self._features is not None:
                    finals.append(rows_path(self._output, self._shard, FEATURES))
                    self._features.publish(finals[-1], metadata)
                self._scores.publish(final, metadata)
            except errors.StorageError:
                if any(read_commit(path) != commit for path in finals):
                    raise
        return commit


def read_commit(path: str) -> Commit | None:
    """The commit record of a scores file; None if there is no complete scores file."""
    try:
        with reading.open_seekable(path) as stream:
            return _commit(pq.read_metadata(stream))
    except Exception:
        # Whatever the error in file or storage: scoring a shard again does no harm, leaving it out does.
        return None


def _commit(metadata: pq.FileMetaData) -> Commit | None:
    """The commit record in a file's metadata; None if its values have wrong types.

    Raises:
      Exception: there is none.
    """
    content = json.loads((metadata.metadata or {})[METADATA_KEY])
    commit = Commit(**{field.name: content[field.name] for field in fields(Commit)})
    return commit if all(type(getattr(commit, field.name)) is field.type for field in fields(Commit)) else None


def check_scores(path: str, expected: str) -> Commit:
    """Checks that a scores file is complete and has this fingerprint, by its metadata alone.

    Args:
      path: of the scores file.
      expected: the fingerprint of the shard with the settings of the run.

    Raises:
      StorageError: it is missing, damaged, or has another fingerprint.
    """
    with reading.open_seekable(path) as stream:
        try:
            metadata = pq.read_metadata(stream)
        except Exception as e:
            raise _damaged(path, errors.cause(e)) from e
    return _checked(path, expected, metadata)


def _checked(path: str, expected: str, metadata: pq.FileMetaData) -> Commit:
    try:
        commit = _commit(metadata)
    except Exception:
        commit = None
    if commit is None:
        raise _damaged(path, "no commit record")
    if commit.fingerprint != expected:
        raise errors.StorageError(f"{path} was made with other settings or from another input: run {_job(path)} again")
    if min(commit.scored, commit.rejected) < 0 or commit.framed != commit.scored + commit.rejected:
        raise _damaged(path, f"{commit.framed} records, {commit.scored} scores and {commit.rejected} rejects")
    if metadata.num_rows != commit.scored:
        raise _damaged(path, f"{metadata.num_rows:,} rows instead of {commit.scored:,}")
    return commit


def _damaged(path: str, why: str) -> errors.StorageError:
    return errors.StorageError(f"{path} is damaged ({why}): remove it and run {_job(path)} again")


def _job(path: str) -> str:
    """The jobs that write files of that path."""
    return "`fit` or `score`" if f"/{FEATURES}/source=" in path else "`score`"


def read_scores(
    path: str, expected: str, columns: Sequence[str], schema: pa.Schema | None = None
) -> Iterator[pa.Table]:
    """Some columns of a shard's scores, one row group at a time, for everyone who reads rows.

    A file is only known to be good when the last row group was read: until then, results are provisional.

    Args:
      path: of the scores file.
      expected: the fingerprint of the shard with the settings of the run.
      columns: their names; those of detectors that the version that wrote the file did not have are null.
      schema: of the file, if it has not the columns of scores.

    Raises:
      StorageError: the file is missing or damaged, has another fingerprint, or a value that no run writes.
    """
    last, known = -1, _KNOWN if schema is None else {column.name: column for column in schema}
    names = list(dict.fromkeys(["index", *columns]))
    for table in read_columns(path, names, functools.partial(_checked, path, expected), _may_lack):
        if problem := _problem(table, last, known):
            raise _damaged(path, problem)
        if table.num_rows:
            last = table["index"][-1].as_py()
        yield table.select(columns)


def _may_lack(names: Sequence[str]) -> dict[str, pa.DataType]:
    """Columns that earlier versions did not write; none where a column has a name that no version wrote.

    Otherwise damage to a name would turn its scores into nulls.
    """
    is_ours = all(name in _KNOWN or name.startswith("odin_T") for name in names)
    return LATER_COLUMNS if is_ours else {}


def _problem(table: pa.Table, last: int, columns: Mapping[str, pa.Field]) -> str | None:
    """What no run writes into its scores: wrong types, nulls in the key, numbers out of range, repeated rows.

    Args:
      table: columns of a row group, among them `index`.
      last: index of the row before it.
      columns: by name; any other is a cell of a grid.
    """
    for name in table.column_names:
        known = columns.get(name, pa.field(name, pa.float64()))
        column = table[name]
        if column.type != known.type:
            return f"column {name} has type {column.type} instead of {known.type}"
        if column.null_count and not known.nullable:
            return f"column {name} has {column.null_count:,} nulls"
        if pa.types.is_floating(column.type) and not pc.all(pc.is_finite(column), min_count=0).as_py():
            return f"column {name} is not finite"
    indexes = table["index"].to_numpy()
    if len(indexes) and (indexes[0] <= last or (np.diff(indexes) <= 0).any()):
        return "the indexes are not ascending from 0"
    if "prediction" in table.column_names and (table["prediction"].to_numpy() < 0).any():
        return "a prediction is negative"
    return None


def read_reject_reasons(output: str, shard: Shard, table: str = SCORES) -> dict[str, int]:
    """Reason -> number of the shard's records rejected for it; `unknown` if the rejects file is gone.

    Args:
      output: the run's folder.
      shard: committed there.
      table: that its rows are in.

    Raises:
      StorageError: the storage did not answer.
    """
    commit = read_commit(rows_path(output, shard, table))
    if commit is None or not commit.rejected:
        return {}
    path = rejects_path(output, shard)
    if listing.stat_file(path) is None:
        return {"unknown": commit.rejected}
    counts: collections.Counter[str] = collections.Counter()
    for rows in read_columns(path, ["reason"]):
        if rows["reason"].type != pa.string() or rows["reason"].null_count:
            raise _damaged(path, "its reasons are not text")
        counts.update(rows["reason"].to_pylist())
    if counts.total() != commit.rejected:
        raise _damaged(path, f"{counts.total():,} rows instead of {commit.rejected:,}")
    return dict(counts)
