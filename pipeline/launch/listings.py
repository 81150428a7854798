"""Lists of loose images: written once at launch, copied into the run's folder, read by the workers."""

import itertools
import os
from collections.abc import Iterable, Iterator

from odin_beam.pipeline.launch.source_pattern import Listing, SourcePattern
from odin_beam.transforms.shards.contents.image_list import ImageList, ListWriter, has_absolute_ids
from odin_beam.transforms.shards.contents.noise import Noise
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import paths, writing
from odin_beam.transforms.tables.layout import LISTINGS, scores_file_name


def image_list_shards(source: SourcePattern, rows: Iterable[dict], listing: Listing) -> Iterator[Shard]:
    """Writes a list of images and returns its virtual shards.

    An image without an id of its own has its uri as the user wrote it. Versions that did not know that gave it the
    absolute uri; a run that began so goes on so, since other ids would be other rows.

    Args:
      source: whose images these are.
      rows: `uri`, and where known `written` (the uri as the user wrote it), `label`, `id`, `size`, `modified`.
      listing: where the list is written, and the run that may have begun.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return
    name = f"{LISTINGS}/{source.name}-{scores_file_name(source.text, 0)}"
    begun = paths.join(listing.output, name) if listing.output is not None and listing.resumes else None
    keeps_ids = begun is None or not has_absolute_ids(begun)
    local = os.path.join(listing.folder, name)
    os.makedirs(os.path.dirname(local), exist_ok=True)
    with ListWriter(local, keeps_ids) as writer:
        for row in itertools.chain([first], rows):
            written = row.pop("written", None)
            if keeps_ids and row.get("id") is None and written != row["uri"]:
                row["id"] = written
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
