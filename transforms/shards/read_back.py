"""Reads the record behind a row of scores again."""

from collections.abc import Mapping, Sequence
from typing import Any

from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.shards.records import Record
from odin_beam.transforms.shards.shard import Shard


def read_back(row: Mapping[str, Any], shards: Sequence[Shard], folder: str) -> tuple[Shard, Record]:
    """The shard of a row, and its record.

    Args:
      row: with `shard`, `index` and `offset`.
      shards: of the row's source.
      folder: of the run, where its lists of images are.

    Raises:
      StorageError: the image is no longer there, or cannot be read.
    """
    shard = next((shard for shard in shards if shard.path == row["shard"] and shard.content.holds(row["index"])), None)
    if shard is None:
        raise StorageError(f"{row['shard']} is no longer in the manifest")
    record = shard.content.read_back(shard, folder, row["index"], row["offset"])
    if record is None or record.problem:
        raise StorageError(f"{row['shard']} does not hold image {row['index']} any more")
    return shard, record
