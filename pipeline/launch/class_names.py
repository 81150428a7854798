"""Names of the classes, in the order of labels, where `ingest` left them next to the shards."""

import re
from collections.abc import Sequence

from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import paths, reading

_FILE = "labels.txt"
# What follows the prefix in the names of shards.
_NUMBER = re.compile(r"-\d{5}-of-\d{5}\.tfrecord$")


def class_names(shards: Sequence[Shard], classes: int) -> list[str] | None:
    """The names next to the first shard; None without any, or if they are not of this many classes.

    Args:
      shards: in-distribution.
      classes: K.
    """
    if not shards:
        return None
    path = shards[0].path
    for candidate in (f"{_NUMBER.sub('', path)}-{_FILE}", paths.join(paths.parent(path), _FILE)):
        try:
            names = reading.read_bytes(candidate).decode("utf-8-sig").splitlines()
        except (StorageError, UnicodeDecodeError):
            continue
        if len(names) == classes:
            return names
    return None
