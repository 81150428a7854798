"""Lists of loose image files: written once at launch, read by the workers in ranges.

A list is a Parquet file in the run's folder. Its row groups are the virtual shards, so a worker reads only its rows.
It is written one row group at a time, so memory does not grow with the list.
"""

import hashlib
import itertools
import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from odin_beam.transforms import errors, limits
from odin_beam.transforms.errors import ImageError
from odin_beam.transforms.images.geometry import Geometry
from odin_beam.transforms.shards.contents.content import Content
from odin_beam.transforms.shards.records import Record
from odin_beam.transforms.shards.shard import IMAGES_PER_SHARD, FeatureNames, Shard
from odin_beam.transforms.storage import paths, reading
from odin_beam.transforms.text import clipped, printable

if TYPE_CHECKING:
    from odin_beam.transforms.images.example import ImageRecord

# Per process. Object stores answer in tens of milliseconds, a local disk in less than one.
FETCHES_AT_ONCE = 16
# Characters of an id in a message.
_SHOWN_LENGTH = 300
SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        ("label", pa.int64()),
        ("id", pa.string()),
        # As listed, if the storage was asked.
        ("size", pa.int64()),
        ("modified", pa.float64()),
    ]
)


# In the list's metadata, for lists whose ids are the uris as the user wrote them, where these are not absolute.
_IDS_KEY, _IDS_AS_WRITTEN = b"odin_beam_ids", b"as written"


@dataclass(frozen=True)
class ImageList(Content):
    """Consecutive rows of a list of image files.

    Attributes:
      listing: path of the list, relative to the run's folder.
      first: position of the first row in the list.
      count: number of rows.
      digest: SHA-256, in hex, of the rows.
    """

    listing: str
    first: int
    count: int
    digest: str

    def read(self, shard: Shard, folder: str, fetchers: Executor) -> Iterator[Record]:
        return read_images(self, folder, fetchers)

    def sample(self, shard: Shard, folder: str, fetchers: Executor, count: int) -> list[Record]:
        step = max(1, self.count // count)
        return list(itertools.islice(read_images(self, folder, fetchers, step), count))

    def read_back(self, shard: Shard, folder: str, index: int, offset: int | None) -> Record | None:
        return read_image(self, folder, index)

    def parse(self, record: Record, names: FeatureNames) -> "ImageRecord":
        from odin_beam.transforms.images.example import ImageRecord

        return ImageRecord(record.payload, record.label, record.id, None)

    def decode_many(self, parsed: Sequence["ImageRecord | None"], geometry: Geometry, out: np.ndarray) -> list[bool]:
        from odin_beam.transforms.images.jpeg_batches import decode_jpegs

        return decode_jpegs([b"" if record is None else record.image for record in parsed], geometry, out)

    def pixels(self, record, parsed, shard, input_shape, geometry, names, out=None) -> np.ndarray:
        from odin_beam.transforms.images import decoding, resize

        image = decoding.decode(parsed.image, input_shape[2], geometry.jpeg)
        return resize.fit(image, input_shape[:2], geometry, out)

    def name(self, shard: Shard) -> str:
        return os.path.basename(shard.path)

    def uri(self, shard: Shard, record: Record, parsed: "ImageRecord | None") -> str | None:
        return record.uri

    def expected_images(self, shard: Shard, mean_bytes: float) -> int:
        return self.count

    def first_index(self) -> int:
        return self.first

    def list_path(self) -> str | None:
        return self.listing

    def holds(self, index: int) -> bool:
        return self.first <= index < self.first + self.count

    def usage_problem(self, record: Record, shard: Shard, names: FeatureNames) -> str | None:
        from odin_beam.transforms.images import decoding

        if record.problem:
            reason, detail = record.problem
            return f"{detail}; the first images listed are not there" if reason == "not_found" else ""
        try:
            decoding.check_header(record.payload)
        except ImageError as e:
            return f"{printable(clipped(record.id, _SHOWN_LENGTH))}: {e.detail}" if e.reason == "not_an_image" else ""
        return None


@dataclass(frozen=True)
class RowRange:
    """One row group of a list.

    Attributes:
      first: position of its first row in the list.
      count: number of rows.
      digest: SHA-256, in hex, of the rows' values.
    """

    first: int
    count: int
    digest: str


class ListWriter:
    """Writes a list, as a context manager.

    Args:
      path: local file.
      ids_as_written: whether an image without an id has its absolute uri also as the user wrote it.
    """

    def __init__(self, path: str, ids_as_written: bool = True):
        schema = SCHEMA.with_metadata({_IDS_KEY: _IDS_AS_WRITTEN}) if ids_as_written else SCHEMA
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._pending: list[dict[str, Any]] = []
        self.ranges: list[RowRange] = []

    def __enter__(self) -> "ListWriter":
        return self

    def __exit__(self, error, *_) -> None:
        if error is None and self._pending:
            self._flush(self._pending)
        self._writer.close()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends rows: `uri`, and if known `label`, `id`, `size`, `modified`."""
        self._pending += rows
        while len(self._pending) >= IMAGES_PER_SHARD:
            self._flush(self._pending[:IMAGES_PER_SHARD])
            self._pending = self._pending[IMAGES_PER_SHARD:]

    def _flush(self, rows: Sequence[Mapping[str, Any]]) -> None:
        table = pa.Table.from_pylist(rows, SCHEMA)
        self._writer.write_table(table, row_group_size=len(rows))
        first = self.ranges[-1].first + self.ranges[-1].count if self.ranges else 0
        self.ranges.append(RowRange(first, len(rows), _digest(table)))


def _digest(table: pa.Table) -> str:
    return hashlib.sha256(json.dumps(table.to_pylist(), sort_keys=True).encode()).hexdigest()


def has_absolute_ids(path: str) -> bool:
    """Whether an image without an id of its own has its absolute uri as id, however the user wrote it.

    True of a list that a version before `ids_as_written` wrote; False where there is no readable list.
    """
    try:
        with reading.open_seekable(path) as stream:
            return (pq.read_schema(stream).metadata or {}).get(_IDS_KEY) != _IDS_AS_WRITTEN
    except Exception:
        # Whoever resumes reads the list that is written now.
        return False


def read_rows(content: ImageList, folder: str) -> list[dict[str, Any]]:
    """The rows of a virtual shard.

    Args:
      content: which rows of which list.
      folder: the folder that the list's path is relative to.

    Raises:
      errors.StorageError: the list cannot be read, or has changed since it was listed.
    """
    path = paths.join(folder, content.listing)
    try:
        with reading.open_seekable(path) as stream:
            # Arrow's own threads may still be at work when a short job ends, which then aborts.
            table = pq.ParquetFile(stream).read_row_group(content.first // IMAGES_PER_SHARD, use_threads=False)
    except errors.StorageError:
        raise
    except Exception as e:
        raise errors.StorageError(f"cannot read {path}: {errors.cause(e)}") from e
    if _digest(table) != content.digest:
        raise errors.StorageError(f"{path} has changed since it was listed: run again")
    return table.to_pylist()


def read_images(content: ImageList, folder: str, fetchers: Executor, step: int = 1) -> Iterator[Record]:
    """The image files of a virtual shard as records, in order, fetched concurrently.

    A file that is missing or too large gives one bad record.

    Args:
      content: which rows of which list.
      folder: the folder that the list's path is relative to.
      fetchers: threads for fetching.
      step: 1 reads every file, n every n-th file.

    Raises:
      errors.StorageError: the list or a file cannot be read: access denied, or storage errors that persist.
    """
    rows = itertools.islice(enumerate(read_rows(content, folder), content.first), None, None, step)
    fetching = deque(fetchers.submit(_fetch, index, row) for index, row in _take(rows, FETCHES_AT_ONCE))
    try:
        while fetching:
            record = fetching.popleft().result()
            fetching.extend(fetchers.submit(_fetch, index, row) for index, row in _take(rows, 1))
            yield record
    finally:
        for fetch in fetching:
            fetch.cancel()


def read_image(content: ImageList, folder: str, index: int) -> Record:
    """The image with that index in the list; errors as in `read_images`."""
    return _fetch(index, read_rows(content, folder)[index - content.first])


def _take(rows: Iterator, count: int) -> list:
    return [row for _, row in zip(range(count), rows, strict=False)]


def _fetch(index: int, row: Mapping[str, Any]) -> Record:
    name = clipped(row["id"] if row["id"] is not None else row["uri"], limits.MAX_ID_LENGTH)
    described = {"id": name, "label": row["label"], "uri": clipped(row["uri"], limits.MAX_ID_LENGTH)}
    too_large = ("record_too_large", f"more than the limit of {limits.MAX_RECORD_BYTES} bytes")
    if row["size"] is not None and row["size"] > limits.MAX_RECORD_BYTES:
        return Record(index, None, None, too_large, **described)
    try:
        with reading.open_file(row["uri"]) as stream:
            data = stream.read(limits.MAX_RECORD_BYTES + 1)
    except errors.NoSuchFile as e:
        return Record(index, None, None, ("not_found", str(e)), **described)
    if len(data) > limits.MAX_RECORD_BYTES:
        return Record(index, None, None, too_large, **described)
    return Record(index, None, data, None, **described)
