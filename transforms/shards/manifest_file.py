"""The manifest: the list of all shards of a run, against which its results are checked.

It is stored in the run's folder and workers read it there, so the job description does not grow with the archive.
"""

import hashlib
import io
import itertools
import json
from collections import Counter
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

_ROLES = ("in_distribution", "out_distribution", "input", "surrogate")
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
        table.validate(full=True)
        shards = [_shard(row, path) for row in table.to_pylist()]
        _refuse_contradictions(shards)
        return shards
    except (pa.ArrowException, OSError, ValueError, TypeError, AttributeError, RecursionError, OtherVersion) as e:
        raise errors.StorageError(f"{path} is damaged: {errors.cause(e)}") from e


def _refuse_contradictions(shards: Sequence[Shard]) -> None:
    """Checks that every shard is listed once, and every source has one role.

    Raises:
      ValueError: no run writes such a list.
    """
    # In one source, shards of one path may be different parts of it, but a file of scores belongs to one shard.
    files, contents = Counter(), Counter()
    for shard in shards:
        files[shard.source, shard.file_name] += 1
        contents[shard.source, shard.path, shard.content] += 1
    for (source, name, *_), count in itertools.chain(files.items(), contents.items()):
        if count > 1:
            raise ValueError(f"{source}: {name} is listed {count} times")
    roles: dict[str, str] = {}
    for shard in shards:
        if roles.setdefault(shard.source, shard.role) != shard.role:
            raise ValueError(f"{shard.source} has the roles {roles[shard.source]} and {shard.role}")


def _shard(row: dict[str, Any], path: str) -> Shard:
    source, name = row["source"], row["output_name"]
    # They become parts of output paths.
    if not (source and name) or name in (".", "..") or any(c in "/\\" or c < " " for c in source + name):
        raise ValueError(f"{source!r}: {name!r} are not names of files")
    if row["role"] not in _ROLES:
        raise ValueError(f"{source} has the role {row['role']!r}")
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
        raise OutputTakenError.by(output, "inputs")
    return shards
