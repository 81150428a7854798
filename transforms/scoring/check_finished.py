"""Finds the shards that are already scored: a run resumes shard by shard."""

from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from odin_beam.transforms.shards.manifest import ReadManifest
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables import scores_file
from odin_beam.transforms.tables.layout import scores_path


def is_finished(shard: Shard, output: str, identity: dict[str, Any]) -> bool:
    """Whether the shard, as listed, has been scored with these settings.

    Args:
      shard: with its current size and modification time.
      output: the run's folder.
      identity: the settings in the fingerprint.
    """
    commit = scores_file.read_commit(scores_path(output, shard))
    return commit is not None and commit.fingerprint == scores_file.fingerprint(identity, shard)


@dataclass
class CheckFinished(beam.PTransform):
    """`Shard`s -> those `finished` and those `todo`; arguments as in `is_finished`."""

    output: str
    identity: dict[str, Any]

    def expand(self, shards: beam.PCollection[Shard]) -> beam.pvalue.DoOutputsTuple:
        return shards | beam.ParDo(_CheckFinished(self.output, self.identity)).with_outputs("finished", "todo")


class _CheckFinished(beam.DoFn):
    def __init__(self, output: str, identity: dict[str, Any]):
        self._output = output
        self._identity = identity
        self._skipped = Metrics.counter("CheckFinished", "shards_finished_before")

    def process(self, shard: Shard):
        if is_finished(shard, self._output, self._identity):
            self._skipped.inc()
            yield beam.pvalue.TaggedOutput("finished", shard)
        else:
            yield beam.pvalue.TaggedOutput("todo", shard)


@dataclass
class ReadFinished(beam.PTransform):
    """Begin -> {`finished`: scored `Shard`s of a run's manifest, `failed`: (`Shard`, reason) of the others}.

    Args:
      output: absolute path of the run's folder.
      identity: the settings in the fingerprint.
    """

    output: str
    identity: dict[str, Any]

    def expand(self, begin: beam.pvalue.PBegin):
        checked = begin | ReadManifest(self.output) | CheckFinished(self.output, self.identity)
        missing = checked.todo | "Missing" >> beam.Map(lambda shard: (shard, "not scored"))
        return {"finished": checked.finished, "failed": missing}
