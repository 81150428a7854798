"""`GLOB` or a folder: TFRecord files of `tf.train.Example`."""

from collections.abc import Iterator

from odin_beam.pipeline.launch.matching import matching_shards
from odin_beam.pipeline.launch.source_pattern import Listing, SourceKind, SourcePattern
from odin_beam.transforms.shards.contents.tfrecords import TFRecords
from odin_beam.transforms.shards.shard import FeatureNames, Shard
from odin_beam.transforms.storage.file_system import FileStat
from odin_beam.transforms.tables.layout import scores_file_name


def _shards(source: SourcePattern, listing: Listing) -> Iterator[Shard]:
    stats, left = matching_shards(source, listing.output)
    listing.left_out.setdefault(source.name, set()).update(left)
    yield from (file_shard(source, stat, None) for stat in stats)


def file_shard(source: SourcePattern, stat: FileStat, features: FeatureNames | None) -> Shard:
    """A TFRecord file as a shard."""
    name = scores_file_name(stat.path)
    return Shard(source.name, source.role, stat.path, stat.size, stat.modified, name, TFRecords(features))


KIND = SourceKind(
    prefix="",
    step=1,
    usage="GLOB",
    help="TFRecord files of tf.train.Example, or a folder; .gz is decompressed",
    shards=_shards,
    worker_path=lambda source, options: (source.role, source.pattern),
)
