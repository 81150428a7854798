"""`manifest:FILE`: a CSV or Parquet table of images with `uri` and, optionally, `label` and `id`."""

from collections.abc import Iterable, Iterator

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.launch.image_table import table_rows
from odin_beam.pipeline.launch.listings import image_list_shards
from odin_beam.pipeline.launch.source_pattern import Listing, SourceKind, SourcePattern
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage.paths import is_local


def _shards(source: SourcePattern, listing: Listing) -> Iterator[Shard]:
    rows = table_rows(source.pattern)
    return image_list_shards(source, _reachable(rows, source) if listing.options.workers_elsewhere else rows, listing)


def _reachable(rows: Iterable[dict], source: SourcePattern) -> Iterator[dict]:
    """The rows unchanged; refuses those that name a file on this machine."""
    for row in rows:
        if is_local(row["uri"]):
            raise UsageError(
                f"--{source.role} {source.text} lists {row['uri']}, which is on this machine, where Dataflow's workers "
                "cannot reach it: list gs:// paths"
            )
        yield row


KIND = SourceKind(
    prefix="manifest",
    step=3,
    usage="manifest:FILE",
    help="a .csv or .parquet table with the column uri, and optionally label (class index) and id",
    shards=_shards,
)
