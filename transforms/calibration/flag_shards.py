"""Flags images by their committed scores: by threshold, or by false discovery rate, against a calibration.

    OUTPUT/flags/source=NAME/BASENAME-DIGEST.parquet   one row per scored image: `FLAG_SCHEMA`
    OUTPUT/flags.json                                  counts and rates by source; written last

Scores are read, never computed: another threshold is another run over the same Parquet.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from odin_beam.transforms import errors
from odin_beam.transforms.calibration.conformal import benjamini_hochberg
from odin_beam.transforms.calibration.flag_rule import FlagRule
from odin_beam.transforms.calibration.flags_summary import (
    Discoveries,
    FlagCounts,
    FlagFacts,
    add_up_flags,
    archive_sources,
    flags_summary,
    scores_state,
)
from odin_beam.transforms.metrics.combine_scores import CombineScoreHistograms
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.shards.manifest_file import read_manifest, roles_of
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import writing
from odin_beam.transforms.tables import layout, parquet, run_file, scores_file
from odin_beam.transforms.tables.json_files import write_json
from odin_beam.transforms.tables.layout import flags_path, scores_path
from odin_beam.transforms.tables.schemas import FLAG_SCHEMA, SCORE_SCHEMA

# What flags repeat of the scores.
_COPIED = [column.name for column in FLAG_SCHEMA if column.name in SCORE_SCHEMA.names]


def _temporary_name(shard: Shard) -> str:
    # Different from the name for scores: another run may be writing those.
    return f"flags-{shard.file_name}"


def flag_rows(rule: FlagRule, table: pa.Table, largest_p: float | None) -> tuple[pa.RecordBatch, FlagCounts]:
    """Rows of a scores file -> rows of `FLAG_SCHEMA`, and their counts (`shards` is 0).

    Args:
      rule: which images are flagged.
      table: the columns that flags have in common with scores, and the detector's column.
      largest_p: see `FlagRule.flagged`.
    """
    scores, predictions = _arrays(rule, table)
    p_values = rule.p_values(scores, predictions)
    flagged = rule.flagged(scores, predictions, p_values, largest_p)
    unscored, missing = np.isnan(scores), np.isnan(p_values)
    columns = [table[name].combine_chunks() for name in _COPIED]
    flag_columns = [pa.array(scores, mask=unscored), pa.array(p_values, mask=missing), pa.array(flagged, mask=missing)]
    classes, sizes = np.unique(predictions[~missing], return_counts=True)
    class_images = {c: size for c, size in zip(classes.tolist(), sizes.tolist(), strict=True) if c in rule.by_class}
    counts = FlagCounts(
        images=len(scores),
        without_score=int(unscored.sum()),
        without_calibration=int((missing & ~unscored).sum()),
        flagged=int(flagged.sum()),
        class_images=class_images,
    )
    return pa.RecordBatch.from_arrays([*columns, *flag_columns], schema=FLAG_SCHEMA), counts


def _arrays(rule: FlagRule, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """float64 [N] scores, NaN if missing, and int32 [N] predictions."""
    scores = table[rule.detector].to_numpy(zero_copy_only=False).astype(np.float64)
    return scores, table["prediction"].to_numpy()


def flag_shard(
    output: str,
    shard: Shard,
    rule: FlagRule,
    largest_p: float | None,
    identity: dict[str, Any],
    name: str | None = None,
) -> FlagCounts:
    """Writes a shard's flags, completely or not at all.

    Args:
      output: the run's folder.
      shard: with scores.
      rule: which images are flagged.
      largest_p: see `FlagRule.flagged`.
      identity: the settings in the fingerprint.
      name: of these flags; None for those without one.

    Raises:
      errors.StorageError: the scores cannot be read, are damaged, or have another fingerprint.
      errors.OutputError: the flags cannot be written.
    """
    parts = []
    stream = parquet.ParquetStream(output, _temporary_name(shard), FLAG_SCHEMA)
    try:
        columns = [*_COPIED, rule.detector]
        expected = scores_file.fingerprint(identity, shard)
        for table in scores_file.read_scores(scores_path(output, shard), expected, columns):
            rows, counts = flag_rows(rule, table, largest_p)
            parts.append(counts)
            with parquet.as_output_error(output):
                stream.write(rows)
        metadata = {"detector": rule.detector, "tpr": rule.tpr, "fdr": rule.fdr, "largest_p_value": largest_p}
        with parquet.as_output_error(output):
            stream.publish(flags_path(output, shard, name), {scores_file.METADATA_KEY: json.dumps(metadata)})
    finally:
        stream.discard()
    return add_up_flags(parts).of_one_shard()


class ReadPValues(beam.DoFn):
    """`Shard` of the archive -> a `ScoreHistogram` of its images' p-values; nothing for shards of other sources."""

    def __init__(self, output: str, rule: FlagRule, identity: dict[str, Any]):
        self._output = output
        self._rule = rule
        self._identity = identity
        self._sources: frozenset[str] | None = None

    def process(self, shard: Shard):
        if self._sources is None:
            self._sources = frozenset(archive_sources(roles_of(read_manifest(self._output))))
        if shard.source not in self._sources:
            return
        histogram = ScoreHistogram()
        path, expected = scores_path(self._output, shard), scores_file.fingerprint(self._identity, shard)
        try:
            for table in scores_file.read_scores(path, expected, ["prediction", self._rule.detector]):
                p_values = self._rule.p_values(*_arrays(self._rule, table))
                histogram.add(p_values[~np.isnan(p_values)])
        except errors.StorageError:
            # The second pass reports which shards failed.
            return
        yield histogram


class _FlagShard(beam.DoFn):
    """`Shard`, `Discoveries` or None -> `counts`: (source, FlagCounts); `failed`: (Shard, reason)."""

    def __init__(self, output: str, rule: FlagRule, identity: dict[str, Any], name: str | None):
        self._output = output
        self._rule = rule
        self._identity = identity
        self._name = name

    def process(self, shard: Shard, discoveries: Discoveries | None):
        largest_p = discoveries.largest_p if discoveries else None
        try:
            counts = flag_shard(self._output, shard, self._rule, largest_p, self._identity, self._name)
        except errors.StorageError as e:
            yield beam.pvalue.TaggedOutput("failed", (shard, str(e)))
        else:
            yield beam.pvalue.TaggedOutput("counts", (shard.source, counts))


@dataclass
class FlagShards(beam.PTransform):
    """{`finished`: `Shard`s, `failed`: (`Shard`, reason)} -> their flags, then `flags.json` in the run's folder.

        >>> calibration = odin_beam.read_calibration("calibration.json")
        >>> rule = odin_beam.FlagRule("odin", calibration.scores["odin"], {}, tpr=0.95)
        >>> flags = odin_beam.FlagShards("/data/scores", rule)

    With `FlagRule.fdr` the scores are read twice: for a histogram of the p-values, and for the flags.

    Args:
      output: absolute path of the run's folder.
      rule: which images are flagged.
      facts: what `flags.json` says besides the counts.
      identity: the settings in the fingerprint; defaults to those of `run.json`.
      name: of these flags, for keeping several beside each other: then it is `flags-NAME` in place of `flags`.
    """

    output: str
    rule: FlagRule
    facts: FlagFacts = field(default_factory=FlagFacts)
    identity: dict[str, Any] | None = None
    name: str | None = None

    def expand(self, shards) -> beam.PCollection[str]:
        identity = self.identity or run_file.read_identity(self.output)
        finished, discoveries = shards["finished"] | "Spread" >> beam.Reshuffle(), None
        if self.rule.fdr is not None:
            discoveries = beam.pvalue.AsSingleton(
                finished
                | beam.ParDo(ReadPValues(self.output, self.rule, identity))
                | "CombinePValues" >> beam.CombineGlobally(CombineScoreHistograms())
                | "Discover" >> beam.Map(_discoveries, self.rule.fdr)
            )
        flag = beam.ParDo(_FlagShard(self.output, self.rule, identity, self.name), discoveries)
        done = finished | flag.with_outputs("counts", "failed")
        failed = (shards["failed"], done.failed) | beam.Flatten()
        return (
            shards["finished"].pipeline
            | "Once" >> beam.Create([self.output])
            | "WriteFlags"
            >> beam.Map(
                write_flags_summary,
                identity,
                self.rule,
                self.facts,
                beam.pvalue.AsDict(done.counts | "CombineCounts" >> beam.CombinePerKey(add_up_flags)),
                beam.pvalue.AsList(shards["finished"]),
                beam.pvalue.AsList(failed),
                discoveries,
                self.name,
            )
        )


def _discoveries(p_values: ScoreHistogram, fdr: float) -> Discoveries:
    return Discoveries(p_values.count, benjamini_hochberg(p_values, fdr))


def write_flags_summary(
    output: str,
    identity: dict[str, Any],
    rule: FlagRule,
    facts: FlagFacts,
    counts: Mapping[str, FlagCounts],
    finished: Iterable[Shard],
    failed: Iterable[tuple[Shard, str]],
    discoveries: Discoveries | None,
    name: str | None = None,
) -> str:
    """Writes `flags.json`, which marks the flags as complete, and removes leftovers of earlier attempts."""
    shards = read_manifest(output)
    state = scores_state(identity, shards)
    content = flags_summary(rule, roles_of(shards), facts, state, counts, failed, discoveries)
    write_json(output, layout.flags_file(name), content)
    writing.delete_temporary(output, {_temporary_name(shard) for shard in finished})
    return output
