"""A user's table of images, CSV or Parquet: `uri` and, optionally, `label` and `id`; read in pieces."""

import codecs
import csv
import math
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet as pq

from odin_beam.pipeline.errors import UsageError
from odin_beam.transforms import errors
from odin_beam.transforms.ingest.labels_file import LABELS_FILE, class_names_in
from odin_beam.transforms.storage import file_system, listing, paths, reading

_COLUMNS = ("uri", "label", "id")
_DELIMITERS = (",", ";", "\t")
# Arrow itself recognises the mark of UTF-8.
_BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_HEAD_BYTES = 1 << 16
_FILE_URI = re.compile(r"file:(?://(?:localhost)?(?=/))?(?=/)", re.IGNORECASE)
_MISSING_LABELS = ("", "nan", "none", "null", "na", "n/a", "<na>")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE | re.ASCII)
_MAX_LABEL = (1 << 63) - 1
# Beside the table, as `ingest` writes it.
# Not allowed in a file's name: control characters break the lines that name it, lone surrogates are not text.
UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def table_rows(path: str) -> Iterator[dict[str, Any]]:
    """The rows of a manifest, in its order.

    Names of columns count without surrounding spaces and in any case.

    Args:
      path: a `.csv` file with a header line, separated by commas, semicolons or tabs, in UTF-8 or UTF-16; or a
        `.parquet` file, on any file system.

    Yields:
      `uri` (relative ones made absolute by the manifest's own folder, `file:` ones made paths), `label` and `id` (None
      where there is none, or a negative label or NaN), `written` (the uri as it stands in the table). A label may be
      the name of a class in a `labels.txt` beside the manifest.

    Raises:
      UsageError: it cannot be read, has no column `uri`, or has a row that names no file or no class; the message says
        which.
    """
    folder = path.rpartition("/")[0]
    known_schemes: set[str | None] = set()
    labels = _Labels(paths.join(folder, LABELS_FILE))
    number = 0
    for batch in _batches(path):
        for row in batch.to_pylist():
            number += 1
            uri = _path_of(row["uri"])
            if not uri or UNWRITABLE.search(uri):
                raise UsageError(
                    f"manifest {path}, row {number}, column uri: {row['uri']!r} is not the URI of an image"
                )
            uri = uri if "://" in uri or uri.startswith("/") else paths.join(folder, uri)
            scheme = file_system.scheme(uri)
            if scheme not in known_schemes:
                _check_scheme(scheme, uri, path, number)
                known_schemes.add(scheme)
            try:
                label = labels.index(row.get("label"))
            except ValueError as e:
                raise UsageError(f"manifest {path}, row {number}, column label: {e}") from None
            yield {"uri": uri, "label": label, "id": row.get("id"), "written": row["uri"]}
    if not number:
        raise UsageError(f"manifest {path} lists no images")


def _path_of(uri: str | None) -> str | None:
    """A `file:` URI as the path that it means; anything else unchanged."""
    if uri is None or not (prefix := _FILE_URI.match(uri)):
        return uri
    return unquote(uri[prefix.end() :], errors="surrogateescape")


class _Labels:
    """From what a table says to class indices.

    Args:
      names_path: where the names of classes may be.
    """

    def __init__(self, names_path: str):
        self._names_path = names_path
        self._indices: dict[str, int] | None = None

    def index(self, value: str | float | bool | None) -> int | None:
        """The class index; None for no label.

        Raises:
          ValueError: it is neither an index nor a known name; the message says so.
        """
        text = value.strip() if isinstance(value, str) else value
        if text is None or (isinstance(text, str) and text.lower() in _MISSING_LABELS):
            return None
        try:
            number = text if isinstance(text, int) else _number(text)
        except ValueError:
            return self._named(text)
        if isinstance(number, float) and math.isnan(number):
            return None
        if number != number // 1 or number > _MAX_LABEL:
            raise ValueError(f"{value!r} is not a class index, a whole number from 0")
        return int(number) if number >= 0 else None

    def _named(self, name: str) -> int:
        if self._indices is None:
            is_there = listing.stat_file(self._names_path) is not None
            names = class_names_in(reading.read_bytes(self._names_path)) if is_there else []
            self._indices = {name: index for index, name in enumerate(names)}
        if name in self._indices:
            return self._indices[name]
        known = (
            f"is not in {self._names_path} either" if self._indices else f"there is no {self._names_path} to name it"
        )
        raise ValueError(f"{name!r} is not a class index, and {known}")


def _number(value: Any) -> int | float:
    """A number as Python has it; raises `ValueError` for anything else."""
    if not isinstance(value, str):
        try:
            return float(value)
        except TypeError as e:
            raise ValueError(value) from e
    if not _NUMBER.fullmatch(value):
        raise ValueError(value)
    return int(value) if value.lstrip("+-").isdigit() else float(value)


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
            yield from _read_csv(stream, path) if kind == ".csv" else _read_parquet(stream, path)
    except errors.StorageError as e:
        raise UsageError(f"manifest: {e}") from e
    except UnicodeDecodeError as e:
        raise UsageError(
            f"manifest {path} is not UTF-8 text, nor UTF-16 with a byte order mark: save it as UTF-8"
        ) from e
    except (pa.ArrowException, OSError) as e:
        text = errors.cause(e)
        hint = ": save it as UTF-8" if kind == ".csv" and "invalid UTF8" in text else ""
        raise UsageError(f"manifest {path} cannot be read: {text}{hint}") from e


def _read_csv(stream, path: str) -> Iterator[pa.RecordBatch]:
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if head.startswith(mark)), "utf-8")
    # The last character may be cut.
    text = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)("replace").decode(head)
    line = re.split("[\r\n]", text.lstrip("\r\n"), maxsplit=1)[0]
    headers = {delimiter: next(csv.reader([line], delimiter=delimiter), []) for delimiter in _DELIMITERS}
    delimiter = next((d for d in _DELIMITERS if "uri" in map(_plain, headers[d])), ",")
    wanted = _wanted(headers[delimiter], path) if line else {}
    # An id such as 007 is text, although it looks like a number, and an empty field is null.
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(wanted.values(), pa.string()),
        include_columns=list(wanted.values()),
        null_values=[""],
        strings_can_be_null=True,
    )
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True, delimiter=delimiter)
    read = pyarrow.csv.ReadOptions(encoding=encoding)
    for batch in pyarrow.csv.open_csv(stream, read, parse, convert):
        # Where a space precedes the name of a column, one precedes its values.
        spaced = [name for name, header in wanted.items() if header != header.strip()]
        columns = {name: batch[header] for name, header in wanted.items()}
        trimmed = {name: pa.compute.utf8_trim_whitespace(columns[name]) for name in spaced}
        yield pa.record_batch({**columns, **trimmed})


def _read_parquet(stream, path: str) -> Iterator[pa.RecordBatch]:
    file = pq.ParquetFile(stream)
    wanted = _wanted(file.schema_arrow.names, path)
    for batch in file.iter_batches(columns=list(wanted.values()), use_threads=False):
        columns = {name: batch[header] for name, header in wanted.items()}
        typed = pa.record_batch({name: _typed(name, column) for name, column in columns.items()})
        # Parquet declares bytes to be text without checking them.
        typed.validate(full=True)
        yield typed


def _typed(name: str, column: pa.Array) -> pa.Array:
    if name != "label":
        return column.cast(pa.string())
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _wanted(headers: Iterable[str], path: str) -> dict[str, str]:
    """Which header stands for each of our columns that is there.

    Raises:
      UsageError: two headers stand for one column, or none for `uri`.
    """
    headers = list(headers)
    found = {name: [header for header in headers if _plain(header) == name] for name in _COLUMNS}
    if twice := [name for name, same in found.items() if len(same) > 1]:
        raise UsageError(f"manifest {path} has more than one column {twice[0]!r}")
    if not found["uri"]:
        raise UsageError(f"manifest {path} has no column 'uri'; its columns: {', '.join(headers)}")
    return {name: same[0] for name, same in found.items() if same}


def _plain(header: str) -> str:
    return header.strip().lower()
