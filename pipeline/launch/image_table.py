"""A user's table of images, CSV or Parquet: `uri` and, optionally, `label` and `id`; read in pieces."""

import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from odin_beam.pipeline.errors import UsageError
from odin_beam.transforms import errors
from odin_beam.transforms.storage import file_system, paths, reading

_COLUMNS = {"uri": pa.string(), "label": pa.int64(), "id": pa.string()}
# Not allowed in a file's name: control characters break the lines that name it, lone surrogates are not text.
UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def table_rows(path: str) -> Iterator[dict[str, Any]]:
    """The rows of a manifest, in its order.

    Args:
      path: a `.csv` file with a header line, or a `.parquet` file, on any file system.

    Yields:
      `uri` (relative ones made absolute by the manifest's own folder), `label` and `id` (None where there is none, or
      a negative label).

    Raises:
      UsageError: it cannot be read, has no column `uri`, or has a row that names no file; the message says which.
    """
    folder = path.rpartition("/")[0]
    known_schemes: set[str | None] = set()
    number = 0
    for batch in _batches(path):
        for row in batch.to_pylist():
            number += 1
            uri = row["uri"]
            if not uri or UNWRITABLE.search(uri):
                raise UsageError(f"manifest {path}, row {number}: {uri!r} is not the URI of an image")
            uri = uri if "://" in uri or uri.startswith("/") else paths.join(folder, uri)
            scheme = file_system.scheme(uri)
            if scheme not in known_schemes:
                _check_scheme(scheme, uri, path, number)
                known_schemes.add(scheme)
            label = row.get("label")
            yield {"uri": uri, "label": None if label is None or label < 0 else label, "id": row.get("id")}
    if not number:
        raise UsageError(f"manifest {path} lists no images")


def _check_scheme(scheme: str | None, uri: str, path: str, number: int) -> None:
    try:
        file_system.check_served(uri)
    except Exception as e:
        raise UsageError(
            f"manifest {path}, row {number}: no file system for {scheme}:// is installed ({errors.cause(e)})"
        ) from e


def _batches(path: str) -> Iterator[pa.RecordBatch]:
    kind = os.path.splitext(path)[1].lower()
    if kind not in (".csv", ".parquet"):
        raise UsageError(f"manifest {path}: its name must end in .csv or .parquet")
    try:
        with reading.open_seekable(path) as stream:
            yield from _typed(_read_csv(stream) if kind == ".csv" else _read_parquet(stream), path)
    except errors.StorageError as e:
        raise UsageError(f"manifest: {e}") from e
    except (pa.ArrowException, OSError) as e:
        raise UsageError(f"manifest {path} cannot be read: {errors.cause(e)}") from e


def _read_csv(stream) -> Iterable[pa.RecordBatch]:
    # An id such as 007 is text, although it looks like a number, and an empty field is null.
    convert = pyarrow.csv.ConvertOptions(column_types=_COLUMNS, null_values=[""], strings_can_be_null=True)
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
    return pyarrow.csv.open_csv(stream, parse_options=parse, convert_options=convert)


def _read_parquet(stream) -> Iterable[pa.RecordBatch]:
    file = pq.ParquetFile(stream)
    return file.iter_batches(columns=[name for name in _COLUMNS if name in file.schema_arrow.names], use_threads=False)


def _typed(batches: Iterable[pa.RecordBatch], path: str) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if "uri" not in batch.schema.names:
            raise UsageError(f"manifest {path} has no column 'uri'; its columns: {', '.join(batch.schema.names)}")
        there = [name for name in _COLUMNS if name in batch.schema.names]
        if twice := [name for name in there if batch.schema.names.count(name) > 1]:
            raise UsageError(f"manifest {path} has more than one column {twice[0]!r}")
        typed = pa.record_batch([batch[name].cast(_COLUMNS[name]) for name in there], names=there)
        # Parquet declares bytes to be text without checking them.
        typed.validate(full=True)
        yield typed
