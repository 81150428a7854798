"""Names of the classes, in the order of labels, where `ingest` left them next to the shards."""

from collections.abc import Sequence

from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import paths, reading

_FILE = "labels.txt"


def class_names(shards: Sequence[Shard], classes: int) -> list[str] | None:
    """The names in the `labels.txt` next to the first shard; None without one, or if it has another number of classes.

    Args:
      shards: in-distribution.
      classes: K.
    """
    if not shards:
        return None
    try:
        text = reading.read_bytes(paths.join(paths.parent(shards[0].path), _FILE)).decode("utf-8-sig")
    except (StorageError, UnicodeDecodeError):
        return None
    names = text.splitlines()
    return names if len(names) == classes else None
