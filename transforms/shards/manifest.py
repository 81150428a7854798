"""The manifest: the list of all shards that a run is about, and that its results are held against.

It lies in the run's folder and the workers read it there, so that the job's description does not grow with the archive.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq

from odin_beam.transforms import errors
from odin_beam.transforms.errors import OutputTakenError
from odin_beam.transforms.shards.shard import Content, FeatureNames, ImageList, Noise, Shard, Surrogate, TFRecords
from odin_beam.transforms.storage import reading, writing
from odin_beam.transforms.tables.layout import manifest_path

_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.float64(), nullable=False),
        pa.field("output_name", pa.string(), nullable=False),
        # JSON: the kind, and what it needs.
        pa.field("content", pa.string(), nullable=False),
    ]
)
_KINDS = {kind.__name__: kind for kind in (TFRecords, ImageList, Noise, Surrogate)}


def write_manifest(output: str, shards: Sequence[Shard]) -> None:
    """Writes the list of shards.

    Raises:
      errors.StorageError: it cannot be written.
    """
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(_rows(shards), _SCHEMA), buffer, compression="zstd")
    writing.write_bytes(manifest_path(output), buffer.getvalue())


def _rows(shards: Iterable[Shard]) -> list[dict[str, Any]]:
    return [
        {name: getattr(shard, name) for name in _SCHEMA.names} | {"content": _to_json(shard.content)}
        for shard in shards
    ]


def manifest_digest(shards: Iterable[Shard]) -> str:
    """SHA-256, in hex, of a list of shards in any order."""
    rows = sorted(json.dumps(row, sort_keys=True) for row in _rows(shards))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def read_manifest(output: str) -> list[Shard]:
    """Reads the list of shards.

    Raises:
      errors.StorageError: there is none, or it is damaged.
    """
    path = manifest_path(output)
    content = reading.read_bytes(path)
    try:
        # Arrow's own threads may still be at work when a short job ends, which then aborts.
        table = pq.read_table(io.BytesIO(content), schema=_SCHEMA, use_threads=False, pre_buffer=False)
        shards = [Shard(**{**row, "content": _from_json(row["content"])}) for row in table.to_pylist()]
        if bad := next(
            (s for s in shards if "/" in s.source + s.output_name or "\\" in s.source + s.output_name), None
        ):
            # They become parts of paths that are written to.
            raise ValueError(f"{bad.source}: {bad.output_name} are no names")
        return shards
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as e:
        raise errors.StorageError(f"{path} is damaged: {errors.cause(e)}") from e


def read_own_manifest(output: str, digest: str) -> list[Shard]:
    """Reads the list of shards, if it is still the one of the digest.

    Raises:
      OutputTakenError: it is another one.
      errors.StorageError: there is none, or it is damaged.
    """
    shards = read_manifest(output)
    if manifest_digest(shards) != digest:
        raise OutputTakenError(output)
    return shards


def _to_json(content: Content) -> str:
    values = asdict(content)
    if isinstance(content, Surrogate):
        values["of"] = _to_json(content.of)
    return json.dumps({"content": type(content).__name__, **values})


def _from_json(text: str) -> Content:
    values = json.loads(text)
    kind = values.pop("content")
    if values.get("features"):
        values["features"] = FeatureNames(**values["features"])
    if "of" in values:
        values["of"] = _from_json(values["of"])
    return _KINDS[kind](**values)


class ReadManifest(beam.PTransform):
    """Begin -> the `Shard`s of a run's manifest, spread over the workers.

    Args:
      output: the run's folder.
      digest: of the shards that it was launched with; None where it does not matter who launched it.
    """

    def __init__(self, output: str, digest: str | None = None):
        super().__init__()
        self._output = output
        self._digest = digest

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Shard]:
        return (
            begin
            | "Folder" >> beam.Create([self._output])
            | "Read" >> (beam.FlatMap(read_own_manifest, self._digest) if self._digest else beam.FlatMap(read_manifest))
            | "Spread" >> beam.Reshuffle()
        )
