"""`files:GLOB` or `files:DIR`: loose image files, listed once at launch; an image's id is its path as given."""

from collections.abc import Iterator

from odin_beam.pipeline.launch.listings import image_list_shards
from odin_beam.pipeline.launch.matching import matching_images
from odin_beam.pipeline.launch.source_pattern import Listing, SourceKind, SourcePattern
from odin_beam.transforms.shards.shard import Shard


def _shards(source: SourcePattern, listing: Listing) -> Iterator[Shard]:
    # Where two patterns of a source overlap, an image counts once.
    seen = listing.seen.setdefault(source.name, set())
    matched, left = matching_images(source, listing.output)
    listing.left_out.setdefault(source.name, set()).update(left)
    stats = [stat for stat in matched if stat.path not in seen]
    seen.update(stat.path for stat in stats)
    absolute, given = source.roots
    rows = (
        {
            "uri": stat.path,
            "written": given + stat.path.removeprefix(absolute) if stat.path.startswith(absolute) else stat.path,
            "size": stat.size,
            "modified": stat.modified,
        }
        for stat in stats
    )
    return image_list_shards(source, rows, listing)


KIND = SourceKind(
    prefix="files",
    step=2,
    usage="files:GLOB",
    help="loose images; a folder stands for all files in it named as images",
    shards=_shards,
    worker_path=lambda source, options: (source.role, source.pattern),
)
