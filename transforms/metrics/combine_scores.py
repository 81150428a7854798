"""From committed scores files to one histogram per source and column, and counts per source; never rows."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow.compute as pc

from odin_beam.transforms import errors
from odin_beam.transforms.metrics.counts import Counts, add_up
from odin_beam.transforms.metrics.score_histogram import MAX_KEYS, ScoreHistogram
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables import scores_file
from odin_beam.transforms.tables.layout import scores_path

Histograms = Mapping[tuple[str, str], ScoreHistogram]


def read_shard_scores(path: str, expected: str, columns: Sequence[str]) -> tuple[Counts, dict[str, ScoreHistogram]]:
    """A scores file's counts, and a histogram of each column that contains scores.

    Args:
      path: of the scores file.
      expected: its fingerprint.
      columns: of the scores.

    Raises:
      errors.StorageError: the file cannot be read, is damaged, or has another fingerprint.
    """
    commit = scores_file.check_scores(path, expected)
    histograms = {column: ScoreHistogram() for column in columns}
    labelled = correct = 0
    for table in scores_file.read_scores(path, expected, ["label", "prediction", *columns]):
        labelled += table.num_rows - table["label"].null_count
        correct += pc.sum(pc.equal(table["label"], table["prediction"])).as_py() or 0
        for column, histogram in histograms.items():
            histogram.add(table[column].drop_null().to_numpy().astype(np.float64))
    counts = Counts(1, commit.framed, commit.scored, commit.rejected, labelled, correct)
    return counts, {column: histogram for column, histogram in histograms.items() if histogram.count}


class ReadScores(beam.DoFn):
    """`Shard` -> `histograms`: ((source, column), ScoreHistogram); `counts`: (source, Counts); never rows.

    A shard whose scores cannot be used goes to `failed`: (`Shard`, reason), and to nothing else.
    """

    def __init__(self, output: str, columns: Sequence[str], identity: dict[str, Any]):
        self._output = output
        self._columns = columns
        self._identity = identity

    def process(self, shard: Shard):
        path, expected = scores_path(self._output, shard), scores_file.fingerprint(self._identity, shard)
        try:
            counts, histograms = read_shard_scores(path, expected, self._columns)
        except errors.StorageError as e:
            yield beam.pvalue.TaggedOutput("failed", (shard, str(e)))
            return
        yield beam.pvalue.TaggedOutput("counts", (shard.source, counts))
        for column, histogram in histograms.items():
            yield beam.pvalue.TaggedOutput("histograms", ((shard.source, column), histogram))


@dataclass
class CombineScores(beam.PTransform):
    """Finished `Shard`s -> {`histograms`: ((source, column), ScoreHistogram), `counts`: (source, Counts)}, merged.

    A third output, `failed`, has (`Shard`, reason) of those whose scores files are damaged or of other settings.

    Args:
      output: absolute path of the run's folder.
      columns: of the scores files, to make histograms of.
      identity: the settings in the fingerprint.
    """

    output: str
    columns: Sequence[str]
    identity: dict[str, Any]

    def expand(self, finished: beam.PCollection[Shard]):
        read = (
            finished
            | "Spread" >> beam.Reshuffle()
            | beam.ParDo(ReadScores(self.output, self.columns, self.identity)).with_outputs(
                "histograms", "counts", "failed"
            )
        )
        return {
            "histograms": read.histograms | "CombineHistograms" >> beam.CombinePerKey(CombineScoreHistograms()),
            "counts": read.counts | "CombineCounts" >> beam.CombinePerKey(functools.partial(add_up, Counts)),
            "failed": read.failed,
        }


@beam.typehints.with_input_types(ScoreHistogram)
@beam.typehints.with_output_types(ScoreHistogram)
class CombineScoreHistograms(beam.CombineFn):
    """Merges `ScoreHistogram`s of equal `max_keys` into one; no input gives an empty one."""

    def __init__(self, max_keys: int = MAX_KEYS):
        super().__init__()
        self._max_keys = max_keys

    def create_accumulator(self) -> ScoreHistogram:
        return ScoreHistogram(self._max_keys)

    def add_input(self, accumulator: ScoreHistogram, element: ScoreHistogram) -> ScoreHistogram:
        accumulator.merge(element)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[ScoreHistogram]) -> ScoreHistogram:
        merged = self.create_accumulator()
        for accumulator in accumulators:
            merged.merge(accumulator)
        return merged

    def extract_output(self, accumulator: ScoreHistogram) -> ScoreHistogram:
        return accumulator
