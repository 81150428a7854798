"""Compares two batches of scored images by their committed scores files; nothing is scored.

Histograms and counts leave the workers, and a few rows per shard, never all rows. The files are read twice: first for
the figures of either batch; then, against those of the reference, at most `MOST_SHARDS` of its shards, and of the new
batch one column, for the images below the threshold in each shard.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa

from odin_beam.transforms import errors
from odin_beam.transforms.calibration.conformal import CalibrationScores
from odin_beam.transforms.calibration.flags_summary import FlagCounts, add_up_flags
from odin_beam.transforms.comparison.class_mix import mix_against_rest
from odin_beam.transforms.comparison.comparison_content import (
    NEW,
    REFERENCE,
    TPR,
    Batch,
    BatchCounts,
    Comparison,
    ShardEffects,
    calibration_of,
    comparison_content,
)
from odin_beam.transforms.comparison.two_samples import shard_against_rest
from odin_beam.transforms.metrics.combine_scores import CombineScoreHistograms
from odin_beam.transforms.metrics.extreme_rows import ROW_COLUMNS, extremes, keep_first
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.scoring.check_finished import ReadFinished
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables import scores_file
from odin_beam.transforms.tables.json_files import write_json
from odin_beam.transforms.tables.layout import scores_path

# Shards of the reference that are compared with all its others.
MOST_SHARDS = 200

Side = tuple[str, Shard]


def sample_shards(shards: Iterable[Shard]) -> frozenset[str]:
    """File names of `MOST_SHARDS` of a batch's shards, those with the lowest hashes; of all if there are fewer."""
    names = sorted((shard.file_name for shard in shards), key=lambda name: hashlib.sha256(name.encode()).digest())
    return frozenset(names[:MOST_SHARDS])


def _tables(batch: Batch, shard: Shard, columns: Iterable[str]) -> Iterable[pa.Table]:
    expected = scores_file.fingerprint(batch.identity, shard)
    return scores_file.read_scores(scores_path(batch.output, shard), expected, list(dict.fromkeys(columns)))


def _scores(table: pa.Table, detector: str) -> np.ndarray:
    """float64 [N]: those that are there."""
    return table[detector].drop_null().to_numpy().astype(np.float64)


class ReadBatches(beam.DoFn):
    """(side, `Shard`) -> itself, when its scores could be read, and `histograms` and `counts`, each by key.

    A shard whose scores cannot be used goes to `failed`: (`Shard`, reason), and to nothing else.
    """

    def __init__(self, comparison: Comparison):
        self._comparison = comparison

    def process(self, element: Side):
        side, shard = element
        batch = self._comparison.new if side == NEW else self._comparison.reference
        try:
            classes, histograms = _read(batch, shard, self._comparison.detectors)
        except errors.StorageError as e:
            yield beam.pvalue.TaggedOutput("failed", (shard, str(e)))
            return
        yield element
        yield beam.pvalue.TaggedOutput("counts", (side, BatchCounts(1, classes)))
        for detector, histogram in histograms.items():
            yield beam.pvalue.TaggedOutput("histograms", ((side, detector), histogram))


def _read(batch: Batch, shard: Shard, detectors: Iterable[str]) -> tuple[dict[int, int], dict[str, ScoreHistogram]]:
    """A shard's images by predicted class, and a histogram of each detector that has scores."""
    classes: Counter[int] = Counter()
    histograms: dict[str, ScoreHistogram] = {}
    for table in _tables(batch, shard, ("prediction", *detectors)):
        found, sizes = np.unique(table["prediction"].to_numpy(), return_counts=True)
        classes.update(dict(zip(found.tolist(), sizes.tolist(), strict=True)))
        for detector in detectors:
            if len(scores := _scores(table, detector)):
                histograms.setdefault(detector, ScoreHistogram()).add(scores)
    return dict(classes), histograms


def add_up_batches(counts: Iterable[BatchCounts]) -> BatchCounts:
    """The sum of counts, field by field."""
    shards, classes = 0, Counter()
    for part in counts:
        shards += part.shards
        classes.update(part.classes)
    return BatchCounts(shards, dict(classes))


class JudgeShards(beam.DoFn):
    """(side, `Shard`), {detector: the reference's `CalibrationScores`}, {side: `BatchCounts`} -> what it says of both.

    `effects` has the `ShardEffects` of a shard of the reference; `flags` and `lowest` have the `FlagCounts` and the
    lowest images of a new one, by the chosen detector. A shard that could be read before and now cannot is `failed`.
    """

    def __init__(self, comparison: Comparison):
        self._comparison = comparison

    def process(self, element: Side, reference: Mapping[str, CalibrationScores], counts: Mapping[str, BatchCounts]):
        side, shard = element
        try:
            if side == REFERENCE:
                effects = shard_effects(self._comparison.reference, shard, reference, counts[REFERENCE])
                results = {"effects": effects}
            elif (calibration := reference.get(self._comparison.chosen)) is not None:
                flags, lowest = below_quantile(self._comparison.new, shard, self._comparison.chosen, calibration)
                results = {"flags": flags, "lowest": lowest}
            else:
                results = {}
        except errors.StorageError as e:
            results = {"failed": (shard, str(e))}
        for tag, result in results.items():
            yield beam.pvalue.TaggedOutput(tag, result)


def shard_effects(
    batch: Batch, shard: Shard, reference: Mapping[str, CalibrationScores], counts: BatchCounts
) -> ShardEffects:
    """A shard of the reference against all its others.

    Args:
      batch: the reference.
      shard: of it.
      reference: detector -> scores of all shards.
      counts: of all shards.

    Raises:
      errors.StorageError: the shard's scores cannot be read.
    """
    classes, histograms = _read(batch, shard, tuple(reference))
    effects = {name: shard_against_rest(reference[name], histogram.bins()) for name, histogram in histograms.items()}
    return ShardEffects(
        {name: effect for name, effect in effects.items() if effect is not None},
        mix_against_rest(counts.classes, classes) if classes else None,
    )


def below_quantile(
    batch: Batch, shard: Shard, detector: str, calibration: CalibrationScores
) -> tuple[FlagCounts, list[tuple]]:
    """How many of a new shard's images lie below the reference's 5 % quantile, and its lowest images.

    Raises:
      errors.StorageError: the shard's scores cannot be read.
    """
    threshold = calibration.threshold(TPR)
    parts: list[FlagCounts] = []
    lowest: list[tuple] = []
    for table in _tables(batch, shard, (*ROW_COLUMNS, detector)):
        scores = _scores(table, detector)
        below = int((scores < threshold).sum())
        parts.append(FlagCounts(0, table.num_rows, table.num_rows - len(scores), below))
        lowest = keep_first([lowest, extremes(table, detector, shard)["lowest"]])
    return add_up_flags(parts).of_one_shard(), lowest


@dataclass
class CompareBatches(beam.PTransform):
    """Begin -> the comparison's JSON file, `name`, in the folder of the reference's run; its name is the output."""

    comparison: Comparison
    name: str

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[str]:
        comparison, finished, failed = self.comparison, [], []
        for side, batch in ((REFERENCE, comparison.reference), (NEW, comparison.new)):
            shards = begin | f"Find {side}" >> ReadFinished(batch.output, batch.source)
            finished.append(shards["finished"] | f"As {side}" >> beam.Map(lambda shard, side: (side, shard), side))
            failed.append(shards["failed"])
        read = (
            finished
            | "Both" >> beam.Flatten()
            | "Spread" >> beam.Reshuffle()
            | beam.ParDo(ReadBatches(comparison)).with_outputs("histograms", "counts", "failed", main="readable")
        )
        histograms = read.histograms | "Merge" >> beam.CombinePerKey(CombineScoreHistograms())
        counts = beam.pvalue.AsDict(read.counts | "Counts" >> beam.CombinePerKey(add_up_batches))
        reference = (
            histograms
            | "Of reference" >> beam.Filter(lambda entry: entry[0][0] == REFERENCE)
            | "As calibration" >> beam.Map(lambda entry: (entry[0][1], calibration_of(entry[1])))
        )
        judged = (
            read.readable
            | "Sample" >> beam.Filter(_is_judged, comparison.sampled)
            | beam.ParDo(JudgeShards(comparison), beam.pvalue.AsDict(reference), counts).with_outputs(
                "effects", "flags", "lowest", "failed"
            )
        )
        return (
            begin
            | "Once" >> beam.Create([self.name])
            | "WriteComparison"
            >> beam.Map(
                write_comparison,
                comparison,
                beam.pvalue.AsDict(histograms),
                counts,
                beam.pvalue.AsSingleton(judged.lowest | "Lowest" >> beam.CombineGlobally(keep_first)),
                beam.pvalue.AsList(judged.effects),
                beam.pvalue.AsSingleton(judged.flags | "Flags" >> beam.CombineGlobally(add_up_flags)),
                beam.pvalue.AsList([*failed, read.failed, judged.failed] | "Failed" >> beam.Flatten()),
            )
        )


def _is_judged(element: Side, sampled: frozenset[str]) -> bool:
    side, shard = element
    return side == NEW or shard.file_name in sampled


def write_comparison(name: str, comparison: Comparison, *parts) -> str:
    """Writes `comparison_content` to the folder of the reference's run under that name."""
    write_json(comparison.reference.output, name, comparison_content(comparison, *parts))
    return name
