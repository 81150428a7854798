"""From committed scores files to `metrics.json` and `summary.json`.

Every figure comes from the Parquet that was written, and from the shards of the manifest alone, so that it cannot
disagree with the rows and stale files cannot enter.
"""

import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow.compute as pc
from apache_beam.io.filesystems import FileSystems

from odin_beam.transforms import errors
from odin_beam.transforms.metrics.detection_metrics import CombineScoreHistograms, detection_metrics, threshold_at_tpr
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.shards.manifest import manifest_digest, read_own_manifest
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import listing, writing
from odin_beam.transforms.tables import score_table

Histograms = Mapping[tuple[str, str], ScoreHistogram]


@dataclass(frozen=True)
class Counts:
    """What was counted in some shards of a source.

    Attributes:
      shards: committed.
      framed: records found; `scored + rejected`.
      scored: rows in the scores files.
      rejected: rows in the rejects files.
      labelled: scored rows with a label.
      correct: labelled rows whose prediction is the label.
    """

    shards: int = 0
    framed: int = 0
    scored: int = 0
    rejected: int = 0
    labelled: int = 0
    correct: int = 0

    @property
    def accuracy(self) -> float | None:
        """Share of labelled rows predicted right; None without labels."""
        return self.correct / self.labelled if self.labelled else None


def total(counts: Iterable[Counts]) -> Counts:
    """The sum, field by field."""
    return Counts(*map(sum, zip(*map(astuple, counts), strict=True))) if (counts := list(counts)) else Counts()


def read_shard_scores(path: str, columns: Sequence[str]) -> tuple[Counts, dict[str, ScoreHistogram]]:
    """A scores file's counts, and a histogram of each of the columns that it has scores in.

    Raises:
      errors.StorageError: the file is not whole, or cannot be read.
    """
    commit = score_table.read_commit(path)
    if commit is None:
        raise errors.StorageError(f"{path} is not the scores file that it was: run `score` again")
    histograms = {column: ScoreHistogram() for column in columns}
    labelled = correct = 0
    for table in score_table.read_columns(path, ["label", "prediction", *columns]):
        labelled += table.num_rows - table["label"].null_count
        correct += pc.sum(pc.equal(table["label"], table["prediction"])).as_py() or 0
        for column, histogram in histograms.items():
            histogram.add(table[column].drop_null().to_numpy().astype(np.float64))
    counts = Counts(1, commit.framed, commit.scored, commit.rejected, labelled, correct)
    return counts, {column: histogram for column, histogram in histograms.items() if histogram.count}


class ReadScores(beam.DoFn):
    """`Shard` -> `histograms`: ((source, column), ScoreHistogram); `counts`: (source, Counts). Never rows."""

    def __init__(self, output: str, columns: Sequence[str]):
        self._output = output
        self._columns = columns

    def process(self, shard: Shard):
        counts, histograms = read_shard_scores(score_table.scores_path(self._output, shard), self._columns)
        yield beam.pvalue.TaggedOutput("counts", (shard.source, counts))
        for column, histogram in histograms.items():
            yield beam.pvalue.TaggedOutput("histograms", ((shard.source, column), histogram))


@dataclass
class CombineScores(beam.PTransform):
    """Finished `Shard`s -> {`histograms`: ((source, column), ScoreHistogram), `counts`: (source, Counts)}, merged.

    Args:
      output: absolute path of the run's folder.
      columns: of the scores files, for histograms.
    """

    output: str
    columns: Sequence[str]

    def expand(self, finished: beam.PCollection[Shard]) -> dict[str, beam.PCollection]:
        read = (
            finished
            | "Spread" >> beam.Reshuffle()
            | beam.ParDo(ReadScores(self.output, self.columns)).with_outputs("histograms", "counts")
        )
        return {
            "histograms": read.histograms | "CombineHistograms" >> beam.CombinePerKey(CombineScoreHistograms()),
            "counts": read.counts | "CombineCounts" >> beam.CombinePerKey(total),
        }


def metrics_report(
    roles: Mapping[str, str], histograms: Histograms, counts: Mapping[str, Counts], listed: int
) -> dict[str, Any]:
    """The content of `metrics.json`.

    Args:
      roles: source -> role, of every source.
      histograms: by source and detector.
      counts: by source.
      listed: shards in the manifest.

    Returns:
      JSON-able: how many of the shards it covers; thresholds and accuracy of each in-distribution source; the metrics
      of every pair of an in- and an out-of-distribution source under every detector that both have scores of.
    """
    inside = [source for source, role in roles.items() if role == "in_distribution"]
    outside = [source for source, role in roles.items() if role == "out_distribution"]
    shards = {"listed": listed, "scored": total(counts.values()).shards}
    report = {"positive_class": "in_distribution", "shards": shards, "in_distribution": {}, "pairs": []}
    for source in inside:
        own = {d: histograms[source, d] for d in score_table.DETECTORS if (source, d) in histograms}
        counted = counts.get(source, Counts())
        report["in_distribution"][source] = {
            "count": counted.scored,
            "accuracy": counted.accuracy,
            "threshold_at_95_tpr": {detector: threshold_at_tpr(histogram) for detector, histogram in own.items()},
        }
    for a, b, detector in itertools.product(inside, outside, score_table.DETECTORS):
        if (a, detector) in histograms and (b, detector) in histograms:
            metrics = detection_metrics(histograms[a, detector], histograms[b, detector])
            names = {"in_distribution": a, "out_distribution": b, "detector": detector}
            report["pairs"].append({**names, **metrics.as_dict()})
    return report


@dataclass(frozen=True)
class RunFacts:
    """What the launcher knows of a run and `summary.json` shall say.

    Attributes:
      settings: as they enter the fingerprint.
      calibrated: whether temperature and epsilon come from a calibration.
      launched: seconds since the epoch.
    """

    settings: dict[str, Any]
    calibrated: bool
    launched: float


def summary_report(
    facts: RunFacts,
    roles: Mapping[str, str],
    counts: Mapping[str, Counts],
    failed: Iterable[tuple[Shard, str]],
    orphans: list[str],
) -> dict[str, Any]:
    """The content of `summary.json`; `complete` is true when every shard of the manifest is committed."""
    failed = sorted(failed, key=lambda pair: (pair[0].source, pair[0].path))
    everything = total(counts.values())
    return {
        "complete": not failed,
        "calibrated": facts.calibrated,
        **asdict(everything),
        "rejected_share": everything.rejected / everything.framed if everything.framed else 0.0,
        "failed_shards": [{"source": shard.source, "path": shard.path, "reason": why} for shard, why in failed],
        "orphaned_scores": orphans,
        "sources": {
            source: {"role": role, **asdict(counted := counts.get(source, Counts())), "accuracy": counted.accuracy}
            for source, role in roles.items()
        },
        "seconds": round(time.time() - facts.launched, 3),
        "settings": facts.settings,
    }


def find_orphans(output: str, shards: Iterable[Shard]) -> list[str]:
    """Scores files that belong to no shard of the manifest: of inputs since removed. They are left where they are."""
    expected = {score_table.scores_path(output, shard) for shard in shards}
    present = listing.list_files(FileSystems.join(output, "scores", "**.parquet"))
    return sorted(stat.path for stat in present if stat.path not in expected)


def write_json(output: str, name: str, content: dict[str, Any]) -> None:
    """Writes one of the run's JSON files, whole or not at all."""
    data = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    writing.write_bytes(FileSystems.join(output, name), data.encode())


@dataclass
class SummarizeScores(beam.PTransform):
    """{`finished`: `Shard`s, `failed`: (`Shard`, reason)} -> `metrics.json`, then `summary.json`, in the run's folder.

    Args:
      output: absolute path of the run's folder.
      roles: source -> role, of every source of the manifest.
      facts: what `summary.json` shall say of the run; None writes `metrics.json` alone.
    """

    output: str
    roles: dict[str, str]
    facts: RunFacts | None = None

    def expand(self, shards: dict[str, beam.PCollection]) -> beam.PCollection[str]:
        combined = shards["finished"] | CombineScores(self.output, score_table.DETECTORS)
        return (
            shards["finished"].pipeline
            | "Once" >> beam.Create([self.output])
            | "WriteSummary"
            >> beam.Map(
                write_summary,
                self.roles,
                self.facts,
                beam.pvalue.AsDict(combined["histograms"]),
                beam.pvalue.AsDict(combined["counts"]),
                beam.pvalue.AsList(shards["finished"]),
                beam.pvalue.AsList(shards["failed"]),
            )
        )


def write_summary(
    output: str,
    roles: dict[str, str],
    facts: RunFacts | None,
    histograms: Histograms,
    counts: Mapping[str, Counts],
    finished: list[Shard],
    failed: list[tuple[Shard, str]],
) -> str:
    """Writes `metrics.json` if there is an in-distribution source, then `summary.json`, the mark of completion.

    Raises:
      OutputTakenError: the manifest has become another run's, and with it these files.
    """
    shards = [*finished, *(shard for shard, _ in failed)]
    read_own_manifest(output, manifest_digest(shards))
    if "in_distribution" in roles.values():
        write_json(output, "metrics.json", metrics_report(roles, histograms, counts, len(shards)))
    if facts is not None:
        orphans = find_orphans(output, shards)
        write_json(output, "summary.json", summary_report(facts, roles, counts, failed, orphans))
        # Nobody needs an attempt at these shards any more, not even another run on this folder.
        writing.delete_temporary(output, {shard.output_name for shard in finished})
    return output
