"""From committed scores files to `metrics.json` and `summary.json`.

Every figure comes from the written Parquet, and only from the shards of the manifest, so it cannot disagree with the
rows, and stale files cannot enter.
"""

import itertools
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

import apache_beam as beam

from odin_beam.transforms.detectors import registry
from odin_beam.transforms.metrics.combine_scores import CombineScores, Histograms
from odin_beam.transforms.metrics.counts import Counts, add_up
from odin_beam.transforms.metrics.detection_metrics import METRICS, detection_metrics, threshold_at_tpr
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.manifest_file import manifest_digest, read_own_manifest, roles_of
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import listing, writing
from odin_beam.transforms.tables import layout, run_file
from odin_beam.transforms.tables.json_files import write_json


def metrics_report(
    roles: Mapping[str, str],
    histograms: Histograms,
    counts: Mapping[str, Counts],
    listed: int,
    damaged: Iterable[tuple[Shard, str]] = (),
    groups: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> dict[str, Any]:
    """The content of `metrics.json`.

    Args:
      roles: source -> role, for every source.
      histograms: by source and detector.
      counts: by source.
      listed: number of shards in the manifest.
      damaged: shards whose scores files are damaged or of other settings, with reasons; no figure includes them.
      groups: group, such as `near`, -> its out-of-distribution sources.

    Returns:
      JSON-compatible: how many of the shards it covers; thresholds and accuracy of each in-distribution source; the
      metrics of each pair of an in- and an out-of-distribution source, for every detector with scores of both; their
      means over the sources of each group, for every detector with scores of all of them.
    """
    inside = [source for source, role in roles.items() if role == "in_distribution"]
    outside = [source for source, role in roles.items() if role == "out_distribution"]
    report = {
        "positive_class": "in_distribution",
        "listed_shards": listed,
        "scored_shards": add_up(Counts, counts.values()).shards,
        "damaged_scores": failures(damaged),
        "in_distribution": {},
        "pairs": [],
    }
    for source in inside:
        by_detector = {d: histograms[source, d] for d in registry.ALL if (source, d) in histograms}
        counted = counts.get(source, Counts())
        report["in_distribution"][source] = {
            "count": counted.scored,
            "accuracy": counted.accuracy,
            "threshold_at_95_tpr": {
                detector: threshold_at_tpr(histogram) for detector, histogram in by_detector.items()
            },
        }
    for a, b, detector in itertools.product(inside, outside, registry.ALL):
        if (a, detector) in histograms and (b, detector) in histograms:
            metrics = detection_metrics(histograms[a, detector], histograms[b, detector])
            names = {"in_distribution": a, "out_distribution": b, "detector": detector}
            report["pairs"].append({**names, **metrics.as_dict()})
    report["groups"] = list(_group_means(report["pairs"], inside, groups))
    return report


def _group_means(
    pairs: Sequence[Mapping[str, Any]], inside: Iterable[str], groups: Mapping[str, Sequence[str]]
) -> Iterator[dict[str, Any]]:
    """The mean of each displayed metric over a group's sources, each of which counts the same."""
    for a, (group, sources), detector in itertools.product(inside, groups.items(), registry.ALL):
        rows = [
            row
            for row in pairs
            if row["in_distribution"] == a and row["out_distribution"] in sources and row["detector"] == detector
        ]
        if len(rows) == len(sources):
            means = {name: statistics.fmean(row[name] for row in rows) for name, m in METRICS.items() if m.shown}
            names = {"in_distribution": a, "group": group, "sources": list(sources), "detector": detector}
            yield {**names, **means}


def failures(failed: Iterable[tuple[Shard, str]]) -> list[dict[str, str]]:
    """Failed shards and reasons in a fixed order, JSON-compatible."""
    failed = sorted(failed, key=lambda pair: (pair[0].source, pair[0].path, pair[0].file_name))
    return [{"source": shard.source, "path": shard.path, "reason": why} for shard, why in failed]


@dataclass(frozen=True)
class RunFacts:
    """The launcher's facts about a run for `summary.json`.

    Attributes:
      settings: as they enter the fingerprint.
      calibrated: whether temperature and epsilon come from a calibration.
      launched: seconds since the epoch.
      warnings: what the launcher warned of.
      unavailable: detector -> why it has no scores.
    """

    settings: dict[str, Any]
    calibrated: bool
    launched: float
    warnings: Sequence[str] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)


def summary_report(
    facts: RunFacts,
    roles: Mapping[str, str],
    counts: Mapping[str, Counts],
    failed: Iterable[tuple[Shard, str]],
    orphans: list[str],
) -> dict[str, Any]:
    """The content of `summary.json`; `complete` is true when every shard of the manifest is committed."""
    failed = list(failed)
    everything = add_up(Counts, counts.values())
    return {
        "complete": not failed,
        "calibrated": facts.calibrated,
        "warnings": list(facts.warnings),
        "without_scores": dict(facts.unavailable),
        **asdict(everything),
        "rejected_share": everything.rejected / everything.framed if everything.framed else 0.0,
        "failed_shards": failures(failed),
        "orphaned_scores": orphans,
        "sources": {
            source: {"role": role, **asdict(counted := counts.get(source, Counts())), "accuracy": counted.accuracy}
            for source, role in roles.items()
        },
        "seconds": round(time.time() - facts.launched, 3),
        "settings": facts.settings,
    }


def find_orphans(output: str, shards: Iterable[Shard], table: str = layout.SCORES) -> list[str]:
    """Files of a table that belong to no shard of the manifest: their inputs were removed. They are not deleted."""
    expected = {layout.rows_path(output, shard, table) for shard in shards}
    present = listing.list_files(layout.all_parquet(layout.rows_folder(output, table)))
    return sorted(stat.path for stat in present if stat.path not in expected)


@dataclass
class SummarizeScores(beam.PTransform):
    """{`finished`: `Shard`s, `failed`: (`Shard`, reason)} -> `metrics.json`, then `summary.json`, in the run's folder.

        >>> summarize = odin_beam.SummarizeScores("/data/scores")

    Args:
      output: absolute path of the run's folder, where the manifest is.
      settings: of the run, for `summary.json`; None writes only `metrics.json`.
      calibrated: whether temperature and epsilon come from a calibration.
      launched: seconds since the epoch; defaults to now.
      identity: the settings in the fingerprint; defaults to those of `settings`, else those of `run.json`.
      warnings: about the run, for `summary.json`; a rerun that has nothing to do repeats them.
      groups: group, such as `near`, -> its out-of-distribution sources, to average the metrics over.
      unavailable: detector -> why it has no scores, for `summary.json`.
    """

    output: str
    settings: ScoreSettings | None = None
    calibrated: bool = False
    launched: float = field(default_factory=time.time)
    identity: dict[str, Any] | None = None
    warnings: Sequence[str] = ()
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    unavailable: Mapping[str, str] = field(default_factory=dict)

    def expand(self, shards) -> beam.PCollection[str]:
        identity = self.settings.identity() if self.settings else self.identity or run_file.read_identity(self.output)
        combined = shards["finished"] | CombineScores(self.output, tuple(registry.ALL), identity)
        facts = self.settings and RunFacts(identity, self.calibrated, self.launched, self.warnings, self.unavailable)
        return (
            shards["finished"].pipeline
            | "Once" >> beam.Create([self.output])
            | "WriteSummary"
            >> beam.Map(
                write_summary,
                identity,
                facts,
                dict(self.groups),
                beam.pvalue.AsDict(combined["histograms"]),
                beam.pvalue.AsDict(combined["counts"]),
                beam.pvalue.AsList(shards["finished"]),
                beam.pvalue.AsList(shards["failed"]),
                beam.pvalue.AsList(combined["failed"]),
            )
        )


def write_summary(
    output: str,
    identity: dict[str, Any],
    facts: RunFacts | None,
    groups: Mapping[str, Sequence[str]],
    histograms: Histograms,
    counts: Mapping[str, Counts],
    finished: list[Shard],
    failed: list[tuple[Shard, str]],
    damaged: list[tuple[Shard, str]],
) -> str:
    """Writes `metrics.json` if there is an in-distribution source, then `summary.json`, the completion marker.

    Raises:
      OutputTakenError: the folder now belongs to another run, and so do these files.
    """
    run_file.check_owner(output, identity)
    digest = manifest_digest([*finished, *(shard for shard, _ in failed)])
    shards = read_own_manifest(output, digest)
    roles = roles_of(shards)
    if "in_distribution" in roles.values():
        write_json(output, layout.METRICS, metrics_report(roles, histograms, counts, len(shards), damaged, groups))
    if facts is not None:
        orphans = find_orphans(output, shards)
        write_json(output, layout.SUMMARY, summary_report(facts, roles, counts, [*failed, *damaged], orphans))
        # Attempts at these shards are no longer needed, not even by another run in this folder.
        writing.delete_temporary(output, {shard.file_name for shard in finished})
    # Another run may have started while these files were written: then they are not the result of either.
    run_file.check_owner(output, identity)
    read_own_manifest(output, digest)
    return output
