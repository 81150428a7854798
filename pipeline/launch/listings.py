"""Lists of loose images: written once at launch, copied into the run's folder, read by the workers."""

import itertools
import os
from collections.abc import Iterable, Iterator

from odin_beam.pipeline.launch.source_pattern import SourcePattern
from odin_beam.transforms.shards.contents.image_list import ImageList, ListWriter
from odin_beam.transforms.shards.contents.noise import Noise
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import paths, writing
from odin_beam.transforms.tables.layout import LISTINGS, scores_file_name


def image_list_shards(source: SourcePattern, rows: Iterable[dict], folder: str) -> Iterator[Shard]:
    """Writes a list of images and returns its virtual shards.

    Args:
      source: whose images these are.
      rows: `uri`, and where known `label`, `id`, `size`, `modified`.
      folder: local; the list is written below it.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    name = f"{LISTINGS}/{source.name}-{scores_file_name(source.text, 0)}"
    local = os.path.join(folder, name)
    os.makedirs(os.path.dirname(local), exist_ok=True)
    with ListWriter(local) as writer:
        for row in itertools.chain([first], rows):
            writer.write([row])
    for part in writer.ranges:
        yield virtual_shard(source, ImageList(name, part.first, part.count, part.digest))


def virtual_shard(source: SourcePattern, content: ImageList | Noise) -> Shard:
    """A shard without a file of its own."""
    return Shard(source.name, source.role, source.text, 0, 0.0, scores_file_name(source.text, content.first), content)


def publish_listings(folder: str, output: str) -> None:
    """Copies the lists of images below a local folder into the run's folder.

    Raises:
      errors.StorageError: they cannot be written.
    """
    local = os.path.join(folder, LISTINGS)
    for name in sorted(os.listdir(local)) if os.path.isdir(local) else []:
        writing.copy_from_local(os.path.join(local, name), paths.join(output, LISTINGS, name))
