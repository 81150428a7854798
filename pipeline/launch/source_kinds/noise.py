"""`noise:gaussian|uniform`: generated images."""

from collections.abc import Iterator

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.launch.listings import virtual_shard
from odin_beam.pipeline.launch.source_pattern import Listing, SourceKind, SourcePattern, leading_name
from odin_beam.transforms.shards.contents.noise import DISTRIBUTIONS, Noise
from odin_beam.transforms.shards.shard import IMAGES_PER_SHARD, Shard


def _shards(source: SourcePattern, listing: Listing) -> Iterator[Shard]:
    if source.pattern not in DISTRIBUTIONS:
        raise UsageError(f"--{source.role} {source.text}: the kinds of noise are {' and '.join(DISTRIBUTIONS)}")
    for first in range(0, listing.options.noise_count, IMAGES_PER_SHARD):
        count = min(IMAGES_PER_SHARD, listing.options.noise_count - first)
        yield virtual_shard(source, Noise(source.pattern, first, count))


KIND = SourceKind(
    prefix="noise",
    step=5,
    usage="noise:gaussian|uniform",
    help="generated images of noise",
    shards=_shards,
    is_path=False,
    # Two kinds of noise called by their role would be one source.
    default_name=leading_name,
)
