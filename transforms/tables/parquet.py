"""Writes Parquet files completely or not at all, and reads them one row group at a time."""

import contextlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from odin_beam.transforms import errors
from odin_beam.transforms.errors import OutputError
from odin_beam.transforms.storage import file_system, reading, writing

ROW_GROUP_ROWS = 1 << 16


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
            self._stream = file_system.create(self._temporary)
            self._writer = pq.ParquetWriter(self._stream, self._schema, compression="zstd")
        table = pa.Table.from_batches(self._pending, self._schema)
        if table.num_rows:
            # A smaller size would split off the excess into a second, tiny row group.
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
        # Report the original error, not a failure to clean up.
        with contextlib.suppress(Exception):
            self._close()
        with contextlib.suppress(Exception):
            writing.delete([self._temporary])


@contextlib.contextmanager
def as_output_error(output: str) -> Iterator[None]:
    try:
        yield
    except Exception as e:
        # Cloud storage raises errors that are not OSErrors, straight through Arrow.
        raise OutputError(f"cannot write to {output}: {errors.cause(e)}") from e


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
