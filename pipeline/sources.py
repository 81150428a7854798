"""What a PATTERN means: its shards. The manifest lists them all, and is what a run is held against."""

import io
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.io.filesystems import FileSystems

from pipeline.options import SOURCE_NAME, SourcePattern, UsageError
from transforms import storage
from transforms.records import Shard
from transforms.score_table import output_name

_MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("role", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("modified", pa.float64(), nullable=False),
        pa.field("output_name", pa.string(), nullable=False),
    ]
)


def list_shards(patterns: Iterable[SourcePattern]) -> list[Shard]:
    """The shards of all sources: by source in the order given, then by path; none twice within a source.

    Raises:
      UsageError: a pattern matches nothing, or cannot be listed.
    """
    shards: dict[tuple[str, str], Shard] = {}
    for source in patterns:
        try:
            stats = storage.list_files(source.pattern)
        except storage.StorageError as e:
            raise UsageError(str(e)) from e
        if not stats:
            raise UsageError(f"--{source.role} {source.pattern} matches no file{_name_hint(source.pattern)}")
        for stat in stats:
            shards.setdefault(
                (source.name, stat.path),
                Shard(source.name, source.role, stat.path, stat.size, stat.modified, output_name(stat.path)),
            )
    order = {name: i for i, name in enumerate(dict.fromkeys(source.name for source in patterns))}
    return sorted(shards.values(), key=lambda shard: (order[shard.source], shard.path))


def _name_hint(pattern: str) -> str:
    """Where `=` stands in a pattern that matches nothing, a NAME was probably meant."""
    before = pattern.partition("=")[0].rpartition("/")[2]
    if "=" not in pattern or SOURCE_NAME.fullmatch(before):
        return ""
    return f"; if {before!r} was meant as a NAME: a NAME begins with a letter, then letters, digits, _ . and -"


def manifest_path(output: str) -> str:
    """Where a run's manifest lies."""
    return FileSystems.join(output, "manifest.parquet")


def write_manifest(output: str, shards: Sequence[Shard]) -> None:
    """Writes the list of shards that this run is about."""
    rows = [{name: getattr(shard, name) for name in _MANIFEST_SCHEMA.names} for shard in shards]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, _MANIFEST_SCHEMA), buffer, compression="zstd")
    storage.write_bytes(manifest_path(output), buffer.getvalue())


def read_manifest(output: str) -> list[Shard]:
    """The list of shards that a run was about.

    Raises:
      UsageError: there is none, or it is damaged.
    """
    path = manifest_path(output)
    try:
        table = pq.read_table(io.BytesIO(storage.read_bytes(path)), schema=_MANIFEST_SCHEMA)
    except (storage.StorageError, pa.ArrowException, OSError, ValueError) as e:
        raise UsageError(f"{output} is no output folder of `score`: {storage.cause(e)}") from e
    return [Shard(**row) for row in table.to_pylist()]
