"""Finds the shards that are already scored: a run resumes shard by shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.shards.manifest import ReadManifest
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import listing
from odin_beam.transforms.tables import scores_file
from odin_beam.transforms.tables.layout import SCORES, rows_path, scores_path


def is_finished(shard: Shard, output: str, identity: dict[str, Any], tables: Sequence[str] = (SCORES,)) -> bool:
    """Whether the shard, as listed, has been scored with these settings.

    Args:
      shard: with its current size and modification time.
      output: the run's folder.
      identity: the settings in the fingerprint.
      tables: that its rows are in, of `layout.SCORES` and `layout.FEATURES`.
    """
    try:
        for table in tables:
            scores_file.check_scores(rows_path(output, shard, table), scores_file.fingerprint(identity, shard))
    except StorageError:
        # Whatever the error in file or storage: scoring a shard again does no harm, leaving it out does.
        return False
    return True


@dataclass
class CheckFinished(beam.PTransform):
    """`Shard`s -> those `finished` and those `todo`; arguments as in `is_finished`."""

    output: str
    identity: dict[str, Any]
    tables: Sequence[str] = (SCORES,)

    def expand(self, shards: beam.PCollection[Shard]) -> beam.pvalue.DoOutputsTuple:
        check = _CheckFinished(self.output, self.identity, tuple(self.tables))
        return shards | beam.ParDo(check).with_outputs("finished", "todo")


class _CheckFinished(beam.DoFn):
    def __init__(self, output: str, identity: dict[str, Any], tables: Sequence[str]):
        self._output = output
        self._identity = identity
        self._tables = tables
        self._skipped = Metrics.counter("CheckFinished", "shards_finished_before")

    def process(self, shard: Shard):
        if is_finished(shard, self._output, self._identity, self._tables):
            self._skipped.inc()
            yield beam.pvalue.TaggedOutput("finished", shard)
        else:
            yield beam.pvalue.TaggedOutput("todo", shard)


def has_scores_file(shard: Shard, output: str) -> bool:
    """Whether there is a scores file for the shard, of whatever content."""
    return listing.stat_file(scores_path(output, shard)) is not None


@dataclass
class ReadFinished(beam.PTransform):
    """Begin -> {`finished`: `Shard`s of a run's manifest that have a scores file, `failed`: (`Shard`, reason)}.

    What is in the files is not looked at: those who read them check every one, and report what they cannot use.

    Args:
      output: absolute path of the run's folder.
      source: whose shards to find; None for those of all sources.
    """

    output: str
    source: str | None = None

    def expand(self, begin: beam.pvalue.PBegin):
        shards = begin | ReadManifest(self.output)
        if self.source is not None:
            shards |= beam.Filter(lambda shard, source: shard.source == source, self.source)
        finished, missing = shards | beam.Partition(_partition, 2, self.output)
        return {"finished": finished, "failed": missing | "Missing" >> beam.Map(lambda shard: (shard, "not scored"))}


def _partition(shard: Shard, partitions: int, output: str) -> int:
    return 0 if has_scores_file(shard, output) else 1
