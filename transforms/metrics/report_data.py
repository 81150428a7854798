"""The data of the report, from committed scores files: curves, histograms, classes, rejects, rows whose images to show.

Only histograms, counts and a few rows per shard leave the workers, so memory does not grow with the archive.
"""

import functools
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
from odin_beam.transforms.metrics.extreme_rows import (
    ROW_COLUMNS,
    extremes,
    keep_first,
    lowest_by_class,
    row_of,
)
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.metrics.summarize_scores import failures
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import paths
from odin_beam.transforms.tables import layout, scores_file
from odin_beam.transforms.tables.flags_file import FLAG_COLUMNS, FlagsInStep
from odin_beam.transforms.tables.json_files import write_json
from odin_beam.transforms.tables.layout import scores_path

# Rows at each end of each source's ranking.
ENDS = 36
# Classes of each source whose first rows are kept, and how many of each.
CLASSES, CLASS_ROWS = 20, 6
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
      flagged: whether there are flags by `ranked_by`; without them, an image below the threshold counts as flagged.
      flags: name of the flags; None for those without one.
    """

    output: str
    roles: dict[str, str]
    ranked_by: str
    threshold: float | None
    identity: dict[str, Any]
    flagged: bool = False
    flags: str | None = None


class ReadForReport(beam.DoFn):
    """A finished `Shard` -> `histograms`, `ranked`, `classes`, `examples`, `rejects`, each by key.

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
        flags = FlagsInStep(output, shard, self._settings.flags) if self._settings.flagged else None
        for table in scores_file.read_scores(scores_path(output, shard), expected, list(columns)):
            for name in dict.fromkeys([*registry.ALL, *registry.HISTOGRAMS]):
                scores = table[name].drop_null().to_numpy().astype(np.float64)
                if len(scores):
                    histograms.setdefault(name, ScoreHistogram()).add(scores)
            if flags is not None:
                own = flags.of(table["index"])
                for name in FLAG_COLUMNS:
                    table = table.append_column(name, own[name])
            for end, rows in extremes(table, ranked_by, shard, ENDS).items():
                yield beam.pvalue.TaggedOutput("ranked", ((shard.source, end), rows))
            for predicted, rows in lowest_by_class(table, ranked_by, shard, CLASS_ROWS).items():
                yield beam.pvalue.TaggedOutput("examples", ((shard.source, predicted), rows))
            for predicted, counts in class_counts(table, ranked_by, self._settings.threshold).items():
                yield beam.pvalue.TaggedOutput("classes", ((shard.source, predicted), counts))
        if flags is not None:
            flags.refuse_more()
        for name, histogram in histograms.items():
            yield beam.pvalue.TaggedOutput("histograms", ((shard.source, name), histogram))
        for reason, count in scores_file.read_reject_reasons(output, shard).items():
            yield beam.pvalue.TaggedOutput("rejects", ((shard.source, reason), count))


@dataclass(frozen=True)
class ClassCounts:
    """Number of rows of one predicted class, and how many of them are flagged."""

    images: int = 0
    flagged: int = 0


def class_counts(table: pa.Table, ranked_by: str, threshold: float | None) -> dict[int, ClassCounts]:
    """Predicted class -> its counts; without flags those below the threshold are counted, without both none."""
    if "is_ood" in table.column_names:
        flagged = pc.fill_null(table["is_ood"], False)
    elif threshold is not None:
        flagged = pc.less(table[ranked_by], threshold)
    else:
        flagged = pa.repeat(pa.scalar(False), table.num_rows)
    grouped = pa.table({"prediction": table["prediction"], "flagged": pc.cast(flagged, pa.int64())})
    counted = grouped.group_by("prediction", use_threads=False).aggregate([("flagged", "sum"), ([], "count_all")])
    return {
        row["prediction"]: ClassCounts(row["count_all"], row["flagged_sum"] or 0)
        for row in counted.select(["prediction", "count_all", "flagged_sum"]).to_pylist()
    }


def _class_entry(joined: tuple) -> tuple[str, list[tuple]]:
    """((source, class), its counts and first rows) -> (source, an entry of `_most_flagged`)."""
    (source, predicted), found = joined
    (counts,) = found["counts"]
    rows = list(itertools.chain.from_iterable(found["rows"]))
    return source, [(-counts.flagged, -counts.images, predicted, rows)]


def _most_flagged(groups: Iterable[list[tuple]]) -> list[tuple]:
    """The `CLASSES` classes with most flagged images; of equals, those with most images."""
    return keep_first(groups, CLASSES)


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
    examples: Mapping[str, list[tuple]],
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
        "flagged": settings.flagged,
        "galleries": {
            source: {end: _rows(source, ranked.get((source, end), [])) for end in ("lowest", "highest")}
            for source in settings.roles
        },
        "examples": {
            source: [
                {"class": predicted, "count": -images, "flagged": -flagged, "rows": _rows(source, rows)}
                for flagged, images, predicted, rows in examples.get(source, [])
            ]
            for source in settings.roles
        },
        "classes": [
            {"source": source, "class": predicted, "count": counts.images, "flagged": counts.flagged}
            for (source, predicted), counts in sorted(classes.items(), key=lambda pair: pair[0])
        ],
        "rejects": [
            {"source": source, "reason": reason, "count": count} for (source, reason), count in sorted(rejects.items())
        ],
        "damaged_scores": failures(damaged),
    }


def _rows(source: str, entries: Iterable[tuple]) -> list[dict[str, Any]]:
    return [{"source": source, **row_of(entry)} for entry in entries]


def write_report_data(name: str, settings: ReportSettings, histograms, ranked, classes, rejects, examples, damaged):
    """Writes `report_data` to the run's folder under that name, and returns the name."""
    content = report_data(settings, histograms, ranked, classes, rejects, examples, damaged)
    write_json(settings.output, name, content)
    return name


@dataclass
class WriteReportData(beam.PTransform):
    """Finished `Shard`s -> `report/data.json` in the run's folder."""

    settings: ReportSettings

    def expand(self, shards: beam.PCollection[Shard]) -> beam.PCollection[str]:
        read = (
            shards
            | "Spread" >> beam.Reshuffle()
            | beam.ParDo(ReadForReport(self.settings)).with_outputs(
                "histograms", "ranked", "classes", "examples", "rejects", "failed"
            )
        )
        classes = read.classes | "Classes" >> beam.CombinePerKey(functools.partial(add_up, ClassCounts))
        rows = read.examples | "Examples" >> beam.CombinePerKey(functools.partial(keep_first, count=CLASS_ROWS))
        # Of thousands of classes only those that are shown reach the one call that writes.
        examples = (
            {"counts": classes, "rows": rows}
            | "Join" >> beam.CoGroupByKey()
            | "OfSource" >> beam.Map(_class_entry)
            | "MostFlagged" >> beam.CombinePerKey(_most_flagged)
        )
        return (
            shards.pipeline
            | "Once" >> beam.Create([paths.join(layout.REPORT, layout.REPORT_DATA)])
            | "WriteReportData"
            >> beam.Map(
                write_report_data,
                self.settings,
                beam.pvalue.AsDict(read.histograms | "Merge" >> beam.CombinePerKey(CombineScoreHistograms())),
                beam.pvalue.AsDict(
                    read.ranked | "Rank" >> beam.CombinePerKey(functools.partial(keep_first, count=ENDS))
                ),
                beam.pvalue.AsDict(classes),
                beam.pvalue.AsDict(read.rejects | "Rejects" >> beam.CombinePerKey(sum)),
                beam.pvalue.AsDict(examples),
                beam.pvalue.AsList(read.failed),
            )
        )
