"""From the PATTERNs of a command line to their shards."""

import sys

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.launch.matching import left_out
from odin_beam.pipeline.launch.source_kinds import KINDS
from odin_beam.pipeline.launch.source_pattern import Listing, SourceOptions
from odin_beam.transforms.shards.shard import Shard


def list_shards(options: SourceOptions, folder: str, output: str | None = None, resumes: bool = True) -> list[Shard]:
    """The shards of all sources: by source in the order given, then by path; no duplicates within a source.

    Says on standard error how many files lie beside loose images without being matched.

    Args:
      options: the patterns, and what they need.
      folder: local; lists of images are written below it, see `listings.publish_listings`.
      output: the run's folder, if there is one: files in it are never inputs, even if a glob matches them.
      resumes: whether what the folder holds of an earlier run is to be continued.

    Raises:
      UsageError: a pattern matches nothing, cannot be listed, or is invalid.
    """
    listing = Listing(options, folder, output, resumes)
    shards: dict[tuple[str, str, int], Shard] = {}
    for source in options.patterns:
        for shard in KINDS[source.kind].shards(source, listing):
            shards.setdefault((shard.source, shard.path, shard.content.first_index()), shard)
    for name, paths in listing.left_out.items():
        listed = {shard.path for shard in shards.values() if shard.source == name}
        if left := sorted(paths - listed - listing.seen.get(name, set())):
            print(left_out(name, left), file=sys.stderr)
    names: dict[tuple[str, str], Shard] = {}
    for shard in shards.values():
        if (other := names.setdefault((shard.source, shard.file_name), shard)) is not shard:
            raise UsageError(f"{other.path} and {shard.path} would share a scores file: make them two sources")
    order = {name: i for i, name in enumerate(dict.fromkeys(source.name for source in options.patterns))}
    return sorted(shards.values(), key=lambda shard: (order[shard.source], shard.path, shard.file_name))
