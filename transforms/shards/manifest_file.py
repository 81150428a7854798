"""The manifest: the list of all shards of a run, against which its results are checked.

It is stored in the run's folder and workers read it there, so the job description does not grow with the archive.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from odin_beam.transforms import errors
from odin_beam.transforms.errors import OutputTakenError
from odin_beam.transforms.settings_json import OtherVersion
from odin_beam.transforms.shards.contents.content import content_from_json, content_to_json
from odin_beam.transforms.shards.shard import Shard
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
        # JSON: the kind of content and its fields.
        pa.field("content", pa.string(), nullable=False),
    ]
)


def write_manifest(output: str, shards: Sequence[Shard]) -> None:
    """Writes the list of shards.

    Raises:
      errors.StorageError: the manifest cannot be written.
    """
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(_rows(shards), _SCHEMA), buffer, compression="zstd")
    writing.write_bytes(manifest_path(output), buffer.getvalue())


def _rows(shards: Iterable[Shard]) -> list[dict[str, Any]]:
    return [
        {
            "source": shard.source,
            "role": shard.role,
            "path": shard.path,
            "size": shard.size,
            "modified": shard.modified,
            "output_name": shard.file_name,
            "content": json.dumps(content_to_json(shard.content)),
        }
        for shard in shards
    ]


def roles_of(shards: Iterable[Shard]) -> dict[str, str]:
    """Source -> role, in the order of the shards."""
    return {shard.source: shard.role for shard in shards}


def manifest_digest(shards: Iterable[Shard]) -> str:
    """SHA-256, in hex, of a list of shards; their order does not matter."""
    rows = sorted(json.dumps(row, sort_keys=True) for row in _rows(shards))
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def read_manifest(output: str) -> list[Shard]:
    """Reads the list of shards.

    Raises:
      errors.StorageError: the manifest is missing or damaged.
    """
    path = manifest_path(output)
    content = reading.read_bytes(path)
    try:
        # Arrow's threads may still be running when a short job ends, and the process then aborts.
        table = pq.read_table(io.BytesIO(content), schema=_SCHEMA, use_threads=False, pre_buffer=False)
        return [_shard(row, path) for row in table.to_pylist()]
    except (pa.ArrowException, OSError, ValueError, TypeError, OtherVersion) as e:
        raise errors.StorageError(f"{path} is damaged: {errors.cause(e)}") from e


def _shard(row: dict[str, Any], path: str) -> Shard:
    source, name = row["source"], row["output_name"]
    # They become parts of output paths.
    if any(separator in source + name for separator in "/\\"):
        raise ValueError(f"{source}: {name} are not names of files")
    content = content_from_json(json.loads(row["content"]), path)
    return Shard(source, row["role"], row["path"], row["size"], row["modified"], name, content)


def read_own_manifest(output: str, digest: str) -> list[Shard]:
    """Reads the list of shards if it still has this digest.

    Raises:
      OutputTakenError: the manifest is that of another run.
      errors.StorageError: the manifest is missing or damaged.
    """
    shards = read_manifest(output)
    if manifest_digest(shards) != digest:
        raise OutputTakenError(output)
    return shards
