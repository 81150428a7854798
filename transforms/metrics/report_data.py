"""The data of the report, from committed scores files: curves, histograms, shares per class, rejects, extremes.

Only histograms, counts and a few rows per shard leave the workers, so memory does not grow with the archive.
"""

import functools
import heapq
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from odin_beam.transforms import errors
from odin_beam.transforms.detectors import registry
from odin_beam.transforms.metrics.combine_scores import CombineScoreHistograms
from odin_beam.transforms.metrics.counts import add_up
from odin_beam.transforms.metrics.detection_metrics import roc_curve, threshold_at_tpr
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.metrics.summarize_scores import failures
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import paths
from odin_beam.transforms.tables import layout, scores_file
from odin_beam.transforms.tables.json_files import write_json
from odin_beam.transforms.tables.layout import scores_path

# Rows at each end of each source's ranking.
GALLERY = 12
# Columns of these rows, besides the score.
ROW_COLUMNS = ("index", "offset", "id", "uri", "label", "prediction", "class_name", "odin_logit", "msp")
# Points of a curve and bars of a histogram: more than a figure can show.
CURVE_POINTS = 400
BARS = 60


@dataclass(frozen=True)
class ReportSettings:
    """The subject of the report.

    Attributes:
      output: absolute path of the run's folder.
      roles: source -> role, for every source of the manifest.
      ranked_by: column by which a source's images are ranked.
      threshold: of `ranked_by`, at 95 % true positive rate; None without an in-distribution source.
      identity: the settings in the fingerprint.
    """

    output: str
    roles: dict[str, str]
    ranked_by: str
    threshold: float | None
    identity: dict[str, Any]


class ReadForReport(beam.DoFn):
    """A finished `Shard` -> `histograms`, `ranked`, `classes`, `rejects`, each by key.

    A shard whose scores cannot be used goes to `failed`: (`Shard`, reason), and to nothing else.
    """

    def __init__(self, settings: ReportSettings):
        self._settings = settings

    def process(self, shard: Shard):
        try:
            # All or nothing: whether a file is good is known at its end.
            results = list(self._results(shard))
        except errors.StorageError as e:
            results = [beam.pvalue.TaggedOutput("failed", (shard, str(e)))]
        yield from results

    def _results(self, shard: Shard) -> Iterator[beam.pvalue.TaggedOutput]:
        output, ranked_by = self._settings.output, self._settings.ranked_by
        columns = dict.fromkeys([*ROW_COLUMNS, ranked_by, *registry.ALL, *registry.HISTOGRAMS])
        histograms: dict[str, ScoreHistogram] = {}
        expected = scores_file.fingerprint(self._settings.identity, shard)
        for table in scores_file.read_scores(scores_path(output, shard), expected, list(columns)):
            for name in dict.fromkeys([*registry.ALL, *registry.HISTOGRAMS]):
                scores = table[name].drop_null().to_numpy().astype(np.float64)
                if len(scores):
                    histograms.setdefault(name, ScoreHistogram()).add(scores)
            for end, rows in extremes(table, ranked_by, shard).items():
                yield beam.pvalue.TaggedOutput("ranked", ((shard.source, end), rows))
            for predicted, counts in class_counts(table, ranked_by, self._settings.threshold).items():
                yield beam.pvalue.TaggedOutput("classes", ((shard.source, predicted), counts))
        for name, histogram in histograms.items():
            yield beam.pvalue.TaggedOutput("histograms", ((shard.source, name), histogram))
        for reason, count in scores_file.read_reject_reasons(output, shard).items():
            yield beam.pvalue.TaggedOutput("rejects", ((shard.source, reason), count))


def extremes(table: pa.Table, ranked_by: str, shard: Shard) -> dict[str, list[tuple]]:
    """The rows with the lowest and the highest scores.

    Args:
      table: columns of a scores file.
      ranked_by: one of these columns; rows without a value in it are ignored.
      shard: the shard with these rows.

    Returns:
      For each of `lowest` and `highest`, up to `GALLERY` tuples (rank, shard path, index, row), best first in tuple
      order; rank is the score, negated for `highest`.
    """
    scores = table[ranked_by].to_numpy(zero_copy_only=False).astype(np.float64)
    entries = {}
    for end, sign in (("lowest", 1.0), ("highest", -1.0)):
        ranks = np.where(np.isnan(scores), np.inf, sign * scores)
        first = np.argsort(ranks, kind="stable")[:GALLERY]
        rows = table.take(first[np.isfinite(ranks[first])]).select(list(ROW_COLUMNS)).to_pylist()
        entries[end] = [
            (float(rank), shard.path, row["index"], row | {"score": sign * float(rank)})
            for rank, row in zip(ranks[first], rows, strict=False)
        ]
    return entries


def keep_first(groups: Iterable[list[tuple]]) -> list[tuple]:
    """The first `GALLERY` entries of several rankings."""
    return heapq.nsmallest(GALLERY, itertools.chain.from_iterable(groups), key=lambda entry: entry[:3])


@dataclass(frozen=True)
class ClassCounts:
    """Number of rows of one predicted class, and how many of them are below the threshold."""

    images: int = 0
    below: int = 0


def class_counts(table: pa.Table, ranked_by: str, threshold: float | None) -> dict[int, ClassCounts]:
    """Predicted class -> its counts; without a threshold no row is below it."""
    below = (
        pc.less(table[ranked_by], threshold) if threshold is not None else pa.repeat(pa.scalar(False), table.num_rows)
    )
    grouped = pa.table({"prediction": table["prediction"], "below": pc.cast(below, pa.int64())})
    counted = grouped.group_by("prediction", use_threads=False).aggregate([("below", "sum"), ([], "count_all")])
    return {
        row["prediction"]: ClassCounts(row["count_all"], row["below_sum"] or 0)
        for row in counted.select(["prediction", "count_all", "below_sum"]).to_pylist()
    }


def histogram_bars(histograms: Mapping[str, ScoreHistogram]) -> dict[str, Any]:
    """Histograms of several sources with common bars.

    Args:
      histograms: by source, of one column; none is empty.

    Returns:
      `edges`, `BARS` + 1 ascending values from the lowest to the highest score; `counts` by source.
    """
    bins = {source: histogram.bins() for source, histogram in histograms.items()}
    low = min(float(part.lower[0]) for part in bins.values())
    high = max(float(part.upper[-1]) for part in bins.values())
    edges = np.linspace(low, high if high > low else low + 1, BARS + 1)
    counts = {
        source: np.histogram((part.lower + part.upper) / 2, edges, weights=part.counts)[0].astype(int).tolist()
        for source, part in bins.items()
    }
    return {"edges": edges.tolist(), "counts": counts}


def report_data(
    settings: ReportSettings,
    histograms: Mapping[tuple[str, str], ScoreHistogram],
    ranked: Mapping[tuple[str, str], list[tuple]],
    classes: Mapping[tuple[str, int], ClassCounts],
    rejects: Mapping[tuple[str, str], int],
    damaged: Iterable[tuple[Shard, str]] = (),
) -> dict[str, Any]:
    """The content of `report/data.json`: curves by pair and detector, bars by column, everything else by source."""
    inside = [source for source, role in settings.roles.items() if role == "in_distribution"]
    outside = [source for source, role in settings.roles.items() if role == "out_distribution"]
    curves = []
    for a, b in itertools.product(inside, outside):
        of_pair = {
            name: roc_curve(histograms[a, name], histograms[b, name], CURVE_POINTS)
            for name in registry.ALL
            if (a, name) in histograms and (b, name) in histograms
        }
        curves.append({"in_distribution": a, "out_distribution": b, "detectors": of_pair})
    bars = {}
    for column in registry.HISTOGRAMS:
        of_column = {source: histograms[source, column] for source in settings.roles if (source, column) in histograms}
        if of_column:
            thresholds = [threshold_at_tpr(of_column[source]) for source in inside if source in of_column]
            bars[column] = histogram_bars(of_column) | {"threshold": next(iter(thresholds), None)}
    return {
        "ranked_by": settings.ranked_by,
        "threshold": settings.threshold,
        "roles": settings.roles,
        "curves": curves,
        "bars": bars,
        "galleries": {
            source: {
                end: [{**row, "shard": path} for _, path, _, row in ranked.get((source, end), [])]
                for end in ("lowest", "highest")
            }
            for source in settings.roles
        },
        "classes": [
            {"source": source, "class": predicted, "count": counts.images, "below": counts.below}
            for (source, predicted), counts in sorted(classes.items(), key=lambda pair: pair[0])
        ],
        "rejects": [
            {"source": source, "reason": reason, "count": count} for (source, reason), count in sorted(rejects.items())
        ],
        "damaged_scores": failures(damaged),
    }


def write_report_data(name: str, settings: ReportSettings, histograms, ranked, classes, rejects, damaged) -> str:
    """Writes `report_data` to the run's folder under that name."""
    write_json(settings.output, name, report_data(settings, histograms, ranked, classes, rejects, damaged))
    return name


@dataclass
class WriteReportData(beam.PTransform):
    """Finished `Shard`s -> `report/data.json` in the run's folder."""

    settings: ReportSettings

    def expand(self, shards: beam.PCollection[Shard]) -> beam.PCollection[str]:
        add_counts = functools.partial(add_up, ClassCounts)
        read = (
            shards
            | "Spread" >> beam.Reshuffle()
            | beam.ParDo(ReadForReport(self.settings)).with_outputs(
                "histograms", "ranked", "classes", "rejects", "failed"
            )
        )
        return (
            shards.pipeline
            | "Once" >> beam.Create([paths.join(layout.REPORT, layout.REPORT_DATA)])
            | "WriteReportData"
            >> beam.Map(
                write_report_data,
                self.settings,
                beam.pvalue.AsDict(read.histograms | "Merge" >> beam.CombinePerKey(CombineScoreHistograms())),
                beam.pvalue.AsDict(read.ranked | "Rank" >> beam.CombinePerKey(keep_first)),
                beam.pvalue.AsDict(read.classes | "Classes" >> beam.CombinePerKey(add_counts)),
                beam.pvalue.AsDict(read.rejects | "Rejects" >> beam.CombinePerKey(sum)),
                beam.pvalue.AsList(read.failed),
            )
        )
