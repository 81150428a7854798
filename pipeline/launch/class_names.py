"""Names of the classes, in the order of labels, where `ingest` left them next to the shards."""

import re
from collections.abc import Sequence

from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.ingest.labels_file import LABELS_FILE, class_names_in
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import paths, reading

# What follows the prefix in the names of shards.
_NUMBER = re.compile(r"-\d{5}-of-\d{5}\.tfrecord$")


def class_names(shards: Sequence[Shard], classes: int | None) -> list[str] | None:
    """The names next to the first shard; None without any, or if they are not of this many classes.

    Args:
      shards: in-distribution.
      classes: K; None if it is not known.
    """
    if not shards:
        return None
    path = shards[0].path
    for candidate in (f"{_NUMBER.sub('', path)}-{LABELS_FILE}", paths.join(paths.parent(path), LABELS_FILE)):
        try:
            names = class_names_in(reading.read_bytes(candidate))
        except StorageError:
            continue
        if classes in (None, len(names)):
            return names
    return None
