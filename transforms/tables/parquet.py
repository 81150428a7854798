"""Writes Parquet files completely or not at all, and reads them one row group at a time."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from odin_beam.transforms import errors
from odin_beam.transforms.errors import OutputError
from odin_beam.transforms.storage import file_system, reading, writing

ROW_GROUP_ROWS = 1 << 16
# Of a table with lists: a row of it may have kilobytes.
_LISTS_GROUP_BYTES = 1 << 24
# What a file may declare, since Arrow allocates memory for what is declared. A row group has at most
# `ROW_GROUP_ROWS` rows and one batch more.
_MAX_GROUPS = 1 << 16
_MAX_GROUP_ROWS = 1 << 20
_MAX_GROUP_BYTES = 1 << 30


class ParquetStream:
    """One Parquet file, written in row groups of about `ROW_GROUP_ROWS` under a temporary name.

    A schema with lists of a fixed size has row groups of 16 MB, and no dictionaries: numbers of features hardly repeat.
    """

    def __init__(self, output: str, name: str, schema: pa.Schema):
        self._temporary = writing.temporary_path(output, name)
        self._schema = schema
        lists = [column.type for column in schema if pa.types.is_fixed_size_list(column.type)]
        row_bytes = sum(of.list_size * of.value_type.bit_width // 8 for of in lists)
        self._row_group_rows = min(ROW_GROUP_ROWS, max(1, _LISTS_GROUP_BYTES // max(1, row_bytes)))
        self._use_dictionary = not lists
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._stream = self._writer = None
        self.rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        if batch.num_rows:
            self._pending.append(batch)
            self._pending_rows += batch.num_rows
            self.rows += batch.num_rows
        if self._pending_rows >= self._row_group_rows:
            self._flush()

    def _flush(self) -> None:
        if self._writer is None:
            self._stream = file_system.create(self._temporary)
            # Without checksums, damage to compressed numbers can pass for other numbers.
            self._writer = pq.ParquetWriter(
                self._stream,
                self._schema,
                compression="zstd",
                write_page_checksum=True,
                use_dictionary=self._use_dictionary,
            )
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


def read_columns(
    path: str,
    columns: Sequence[str],
    check: Callable[[pq.FileMetaData], None] | None = None,
    may_lack: Callable[[Sequence[str]], Mapping[str, pa.DataType]] = lambda names: {},
) -> Iterator[pa.Table]:
    """Some columns of a scores or rejects file, one row group at a time; checksums are verified where there are any.

    Args:
      path: of the file.
      columns: their names.
      check: called with the metadata of the opened file; raises a `StorageError` if the rows are not to be read.
      may_lack: names of the file's columns -> the columns, with their types, that it may lack; they are null then.

    Raises:
      StorageError: the file cannot be read, or lacks one of the other columns.
    """
    try:
        with reading.open_seekable(path) as stream:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            if check is not None:
                check(file.metadata)
            _refuse_excess(file.metadata)
            names = file.schema_arrow.names
            later = may_lack(names)
            nulls = {column for column in columns if column in later and column not in names}
            present = [column for column in columns if column not in nulls]
            if absent := [column for column in present if names.count(column) != 1]:
                raise ValueError(f"no column {', '.join(absent)}, or several")
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, present)
                table.validate(full=True)
                for column in nulls:
                    table = table.append_column(column, pa.nulls(table.num_rows, later[column]))
                yield table.select(columns) if nulls else table
    except errors.StorageError:
        raise
    except Exception as e:
        raise errors.StorageError(f"cannot read {path}: {errors.cause(e)}") from e


def _refuse_excess(metadata: pq.FileMetaData) -> None:
    """Checks what a file declares before memory is allocated for it.

    Raises:
      ValueError: more than a file of ours can contain.
    """
    # The metadata of single columns are out of bounds: pyarrow 25 aborts the process on some that are damaged.
    if metadata.num_row_groups > _MAX_GROUPS:
        raise ValueError(f"{metadata.num_row_groups:,} row groups")
    rows = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        rows += group.num_rows
        if not 0 <= group.num_rows <= _MAX_GROUP_ROWS:
            raise ValueError(f"a row group of {group.num_rows:,} rows")
        if not 0 <= group.total_byte_size <= _MAX_GROUP_BYTES:
            raise ValueError(f"a row group of {group.total_byte_size:,} bytes")
    if rows != metadata.num_rows:
        raise ValueError(f"{rows:,} rows in its row groups, but {metadata.num_rows:,} in all")
