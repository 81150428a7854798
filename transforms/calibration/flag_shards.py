"""From committed scores to a flag per image: threshold, or false discovery rate, against a calibration.

    OUTPUT/flags/source=NAME/BASENAME-DIGEST.parquet   one row per scored image: `FLAG_SCHEMA`
    OUTPUT/flags.json                                  counts and rates by source; written last

Scores are read, never made: another threshold is another run over the same Parquet.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems

from odin_beam.transforms import errors
from odin_beam.transforms.calibration.conformal import CalibrationScores, benjamini_hochberg
from odin_beam.transforms.metrics.detection_metrics import CombineScoreHistograms
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.metrics.summarize_scores import write_json
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import writing
from odin_beam.transforms.tables import score_table

SUMMARY = "flags.json"
FLAG_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("prediction", pa.int32(), nullable=False),
        ("score", pa.float64()),
        ("p_value", pa.float64()),
        ("is_ood", pa.bool_()),
    ]
)


@dataclass(frozen=True, eq=False)
class FlagRule:
    """When an image is flagged.

    Attributes:
      detector: column of the scores files.
      calibration: its in-distribution scores.
      by_class: its in-distribution scores by predicted class, used instead of `calibration` where a class has them.
      tpr: flags the scores below the threshold of this true positive rate, in (0, 1); None with `fdr`.
      fdr: flags by Benjamini and Hochberg's rule at this false discovery rate, in (0, 1); None with `tpr`.
    """

    detector: str
    calibration: CalibrationScores
    by_class: Mapping[int, CalibrationScores]
    tpr: float | None = None
    fdr: float | None = None

    def p_values(self, scores: np.ndarray, predictions: np.ndarray) -> np.ndarray:
        """Conformal p-values, each against the calibration scores that count for the predicted class.

        Args:
          scores: float [N]; NaN where there is none.
          predictions: int [N].

        Returns:
          float64 [N], in (0, 1], NaN where there is no score.
        """
        found = np.full(len(scores), np.nan)
        for calibration, rows in self._groups(predictions):
            rows = rows & np.isfinite(scores)
            found[rows] = calibration.p_values(scores[rows])
        return found

    def flagged(
        self, scores: np.ndarray, predictions: np.ndarray, p_values: np.ndarray, largest_p: float | None
    ) -> np.ndarray:
        """Which images are flagged, bool [N]; False where there is no score.

        Args:
          scores: as in `p_values`.
          predictions: as in `p_values`.
          p_values: of these.
          largest_p: the largest p-value to flag; None flags by threshold.
        """
        if largest_p is not None:
            return p_values <= largest_p
        found = np.zeros(len(scores), bool)
        for calibration, rows in self._groups(predictions):
            found |= rows & (scores < calibration.threshold(self.tpr))
        return found

    def false_flags(self, predictions: np.ndarray) -> tuple[float, float, float]:
        """How many of these images the thresholds of `tpr` flag if all are in-distribution.

        Returns:
          (expected number, lower and upper end of a 95 % interval; with several classes a wider one).
        """
        totals = np.zeros(3)
        for calibration, rows in self._groups(predictions):
            expected, low, high = calibration.realised_tpr(self.tpr)
            totals += np.count_nonzero(rows) * (1 - np.array([expected, high, low]))
        return tuple(totals.tolist())

    def _groups(self, predictions: np.ndarray) -> Iterable[tuple[CalibrationScores, np.ndarray]]:
        """Calibration scores, and the rows (bool [N]) that they count for; every row is in one group."""
        rest = np.ones(len(predictions), bool)
        for predicted in np.unique(predictions).tolist() if self.by_class else ():
            if own := self.by_class.get(predicted):
                rows = predictions == predicted
                rest &= ~rows
                yield own, rows
        yield self.calibration, rest


@dataclass(frozen=True)
class FlagCounts:
    """What was counted in some shards of a source.

    Attributes:
      shards: flagged.
      images: rows in the flags files.
      without_score: of these, those that the detector gave no score.
      flagged: of these, those that are flagged.
      false_flags: expected number of flags if all images are in-distribution; 0 with `FlagRule.fdr`.
      false_flags_low: lower end of the 95 % interval of that.
      false_flags_high: upper end.
    """

    shards: int = 0
    images: int = 0
    without_score: int = 0
    flagged: int = 0
    false_flags: float = 0.0
    false_flags_low: float = 0.0
    false_flags_high: float = 0.0

    @property
    def share(self) -> float | None:
        """Flagged share of the images that have a score; None without such."""
        scored = self.images - self.without_score
        return self.flagged / scored if scored else None


def add_counts(counts: Iterable[FlagCounts]) -> FlagCounts:
    """The sum, field by field."""
    rows = [astuple(own) for own in counts]
    return FlagCounts(*map(sum, zip(*rows, strict=True))) if rows else FlagCounts()


@dataclass(frozen=True)
class Discoveries:
    """What Benjamini and Hochberg's rule found.

    Attributes:
      images: m, how many p-values it was given.
      largest_p: the largest p-value that it flags; 0 flags nothing.
    """

    images: int
    largest_p: float


def archive_sources(roles: Mapping[str, str]) -> list[str]:
    """The sources over which false discoveries are counted: those of unknown role, or where there is none, all."""
    return [source for source, role in roles.items() if role == "input"] or list(roles)


def flags_path(output: str, shard: Shard) -> str:
    """Where the shard's flags are published."""
    return FileSystems.join(output, "flags", f"source={shard.source}", shard.output_name)


def scores_state(settings: dict[str, Any], shards: Iterable[Shard]) -> str:
    """SHA-256, in hex, of all that determines a run's rows: flags made at another state are of other scores."""
    fingerprints = sorted((s.source, s.output_name, score_table.fingerprint(settings, s)) for s in shards)
    return hashlib.sha256(json.dumps(fingerprints).encode()).hexdigest()


def _temporary_name(shard: Shard) -> str:
    # Not that of the scores: another run may be at work on these.
    return f"flags-{shard.output_name}"


def flag_rows(rule: FlagRule, table: pa.Table, largest_p: float | None) -> tuple[pa.RecordBatch, FlagCounts]:
    """Rows of a scores file -> rows of `FLAG_SCHEMA`, and their counts (`shards` is 0).

    Args:
      rule: when an image is flagged.
      table: the columns `shard`, `index`, `id`, `prediction` and the detector's.
      largest_p: see `FlagRule.flagged`.
    """
    scores, predictions = _arrays(rule, table)
    p_values = rule.p_values(scores, predictions)
    flagged = rule.flagged(scores, predictions, p_values, largest_p)
    missing = np.isnan(p_values)
    columns = [table[name].combine_chunks() for name in ("shard", "index", "id", "prediction")]
    made = [pa.array(scores, mask=missing), pa.array(p_values, mask=missing), pa.array(flagged, mask=missing)]
    false_flags = rule.false_flags(predictions[~missing]) if rule.tpr is not None else ()
    counts = FlagCounts(0, len(scores), int(missing.sum()), int(flagged.sum()), *false_flags)
    return pa.RecordBatch.from_arrays([*columns, *made], schema=FLAG_SCHEMA), counts


def _arrays(rule: FlagRule, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """float64 [N] scores, NaN where there is none, and int32 [N] predictions."""
    scores = table[rule.detector].to_numpy(zero_copy_only=False).astype(np.float64)
    return scores, table["prediction"].to_numpy()


def flag_shard(output: str, shard: Shard, rule: FlagRule, largest_p: float | None) -> FlagCounts:
    """Writes a shard's flags, whole or not at all.

    Raises:
      errors.StorageError: its scores cannot be read.
      score_table.OutputError: its flags cannot be written.
    """
    parts = [FlagCounts(shards=1)]
    stream = score_table.ParquetStream(output, _temporary_name(shard), FLAG_SCHEMA)
    try:
        columns = ["shard", "index", "id", "prediction", rule.detector]
        for table in score_table.read_columns(score_table.scores_path(output, shard), columns):
            rows, counts = flag_rows(rule, table, largest_p)
            parts.append(counts)
            with score_table.as_output_error(output):
                stream.write(rows)
        said = {"detector": rule.detector, "tpr": rule.tpr, "fdr": rule.fdr, "largest_p_value": largest_p}
        with score_table.as_output_error(output):
            stream.publish(flags_path(output, shard), {score_table.METADATA_KEY: json.dumps(said)})
    finally:
        stream.discard()
    return add_counts(parts)


class ReadPValues(beam.DoFn):
    """`Shard` of the archive -> a `ScoreHistogram` of its images' p-values; of other sources nothing."""

    def __init__(self, output: str, rule: FlagRule, sources: Iterable[str]):
        self._output = output
        self._rule = rule
        self._sources = frozenset(sources)

    def process(self, shard: Shard):
        if shard.source not in self._sources:
            return
        histogram = ScoreHistogram()
        path = score_table.scores_path(self._output, shard)
        try:
            for table in score_table.read_columns(path, ["prediction", self._rule.detector]):
                p_values = self._rule.p_values(*_arrays(self._rule, table))
                histogram.add(p_values[~np.isnan(p_values)])
        except errors.StorageError:
            # The second pass says which shards failed.
            return
        yield histogram


class _FlagShard(beam.DoFn):
    """`Shard`, `Discoveries` or None -> `counts`: (source, FlagCounts); `failed`: (Shard, reason)."""

    def __init__(self, output: str, rule: FlagRule):
        self._output = output
        self._rule = rule

    def process(self, shard: Shard, discoveries: Discoveries | None):
        largest_p = discoveries.largest_p if discoveries else None
        try:
            counts = flag_shard(self._output, shard, self._rule, largest_p)
        except errors.StorageError as e:
            yield beam.pvalue.TaggedOutput("failed", (shard, str(e)))
        else:
            yield beam.pvalue.TaggedOutput("counts", (shard.source, counts))


@dataclass(frozen=True)
class FlagFacts:
    """What `flags.json` says beside the counts.

    Attributes:
      calibration: path and what it was made of, JSON-able.
      per_class: whether thresholds by predicted class were asked for.
      state: see `scores_state`.
      launched: seconds since the epoch.
    """

    calibration: dict[str, Any]
    per_class: bool
    state: str
    launched: float


@dataclass
class FlagShards(beam.PTransform):
    """{`finished`: `Shard`s, `failed`: (`Shard`, reason)} -> their flags, then `flags.json` in the run's folder.

    With `FlagRule.fdr` the scores are read twice: for a histogram of the p-values, and to be flagged.

    Args:
      output: absolute path of the run's folder.
      rule: when an image is flagged.
      roles: source -> role, of every source of the manifest.
      facts: what `flags.json` shall say beside.
    """

    output: str
    rule: FlagRule
    roles: dict[str, str]
    facts: FlagFacts

    def expand(self, shards: dict[str, beam.PCollection]) -> beam.PCollection[str]:
        finished, discoveries = shards["finished"] | "Spread" >> beam.Reshuffle(), None
        if self.rule.fdr is not None:
            sources = archive_sources(self.roles)
            discoveries = beam.pvalue.AsSingleton(
                finished
                | beam.ParDo(ReadPValues(self.output, self.rule, sources))
                | "CombinePValues" >> beam.CombineGlobally(CombineScoreHistograms())
                | "Discover" >> beam.Map(_discoveries, self.rule.fdr)
            )
        done = finished | beam.ParDo(_FlagShard(self.output, self.rule), discoveries).with_outputs("counts", "failed")
        failed = (shards["failed"], done.failed) | beam.Flatten()
        return (
            shards["finished"].pipeline
            | "Once" >> beam.Create([self.output])
            | "WriteFlags"
            >> beam.Map(
                write_flags_summary,
                self.rule,
                self.roles,
                self.facts,
                beam.pvalue.AsDict(done.counts | "CombineCounts" >> beam.CombinePerKey(add_counts)),
                beam.pvalue.AsList(shards["finished"]),
                beam.pvalue.AsList(failed),
                discoveries,
            )
        )


def _discoveries(p_values: ScoreHistogram, fdr: float) -> Discoveries:
    return Discoveries(p_values.count, benjamini_hochberg(p_values, fdr))


def write_flags_summary(
    output: str,
    rule: FlagRule,
    roles: Mapping[str, str],
    facts: FlagFacts,
    counts: Mapping[str, FlagCounts],
    finished: Iterable[Shard],
    failed: Iterable[tuple[Shard, str]],
    discoveries: Discoveries | None,
) -> str:
    """Writes `flags.json`, the mark that the flags are all there, and removes what attempts have left."""
    write_json(output, SUMMARY, flags_summary(rule, roles, facts, counts, failed, discoveries))
    writing.delete_temporary(output, {_temporary_name(shard) for shard in finished})
    return output


def flags_summary(
    rule: FlagRule,
    roles: Mapping[str, str],
    facts: FlagFacts,
    counts: Mapping[str, FlagCounts],
    failed: Iterable[tuple[Shard, str]],
    discoveries: Discoveries | None,
) -> dict[str, Any]:
    """The content of `flags.json`, JSON-able.

    `realised_tpr` is the share of an in-distribution source that is not flagged, `realised_fpr` that of an
    out-of-distribution one, as the metrics have it: the positive class is in-distribution.
    """
    failed = sorted(failed, key=lambda pair: (pair[0].source, pair[0].path))
    sources = {}
    for source, role in roles.items():
        own = counts.get(source, FlagCounts())
        accepted = None if own.share is None else 1 - own.share
        rates = {"in_distribution": "realised_tpr", "out_distribution": "realised_fpr"}
        sources[source] = {"role": role, **asdict(own), "share": own.share}
        if role in rates:
            sources[source][rates[role]] = accepted
    return {
        "complete": not failed,
        "detector": rule.detector,
        "rule": _described(rule, roles, counts, discoveries),
        "per_class": facts.per_class,
        "classes_with_own_scores": len(rule.by_class),
        "calibration": facts.calibration,
        "failed_shards": [{"source": shard.source, "path": shard.path, "reason": why} for shard, why in failed],
        "sources": sources,
        "seconds": round(time.time() - facts.launched, 3),
        "scores_state": facts.state,
    }


def _described(
    rule: FlagRule, roles: Mapping[str, str], counts: Mapping[str, FlagCounts], discoveries: Discoveries | None
) -> dict[str, Any]:
    if discoveries is None:
        expected, low, high = rule.calibration.realised_tpr(rule.tpr)
        threshold = rule.calibration.threshold(rule.tpr)
        return {"tpr": rule.tpr, "threshold": threshold, "expected_tpr": expected, "realised_tpr": [low, high]}
    archive = archive_sources(roles)
    flagged = {source: counts[source].flagged for source in archive if source in counts}
    known = all(roles[source] != "input" for source in archive)
    false = sum(count for source, count in flagged.items() if roles[source] == "in_distribution")
    smallest = min(1 / (1 + own.count) for own in (rule.calibration, *rule.by_class.values()))
    return {
        "fdr": rule.fdr,
        "largest_p_value": discoveries.largest_p,
        "smallest_possible_p_value": smallest,
        "images": discoveries.images,
        "sources": archive,
        "flagged": sum(flagged.values()),
        "false_discovery_share": false / total if known and (total := sum(flagged.values())) else None,
    }
