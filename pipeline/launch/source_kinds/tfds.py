"""`tfds:NAME[:VERSION]/SPLIT`: a data set that TensorFlow Datasets has prepared."""

from collections.abc import Iterator

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.launch.prepared_dataset import find_split
from odin_beam.pipeline.launch.source_kinds.tfrecords import file_shard
from odin_beam.pipeline.launch.source_pattern import Listing, SourceKind, SourcePattern, leading_name
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage.listing import stat_file


def _shards(source: SourcePattern, listing: Listing) -> Iterator[Shard]:
    shard_files, features = find_split(source.pattern, listing.options.tfds_data_dir)
    for path in shard_files:
        stat = stat_file(path)
        if stat is None:
            raise UsageError(f"{source.text} is incomplete: {path} is missing; prepare it again")
        yield file_shard(source, stat, features)


KIND = SourceKind(
    prefix="tfds",
    step=4,
    usage="tfds:NAME[:VERSION]/SPLIT",
    help="a data set that TensorFlow Datasets has prepared",
    shards=_shards,
    is_path=False,
    default_name=leading_name,
    worker_path=lambda source, options: ("tfds_data_dir", options.tfds_data_dir),
)
