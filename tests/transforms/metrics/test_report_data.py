"""What the report is drawn from, against NumPy on the rows themselves."""

import json
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_curve as sklearn_roc_curve

from odin_beam.transforms.metrics.detection_metrics import roc_curve
from odin_beam.transforms.metrics.extreme_rows import ROW_COLUMNS, lowest_by_class
from odin_beam.transforms.metrics.report_data import (
    CLASS_ROWS,
    CLASSES,
    ENDS,
    ClassCounts,
    ReportSettings,
    WriteReportData,
    class_counts,
    histogram_bars,
)
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.tables import layout, schemas, scores_file
from tests.helpers import samples

IDENTITY = {"temperature": 1.0}


def committed(folder, name, scores, source="known", predictions=None):
    """A scores file whose msp, odin and odin_logit are these; the prediction defaults to the index modulo 3."""
    shard = samples.shard(samples.write_shard(folder / f"{name}.tfrecord", []), source)
    rows = [
        dict.fromkeys(schemas.SCORE_SCHEMA.names)
        | {
            "shard": shard.path,
            "index": i,
            "id": f"{name}{i}",
            "prediction": i % 3 if predictions is None else predictions[i],
        }
        | dict.fromkeys(("odin", "odin_logit", "msp"), score)
        for i, score in enumerate(scores)
    ]
    reject = {"index": 99, "offset": None, "id": "r", "reason": "undecodable", "detail": ""}
    with scores_file.ScoresWriter(str(folder / "run"), shard) as writer:
        writer.write(pa.RecordBatch.from_pylist(rows, schemas.SCORE_SCHEMA), [reject])
        writer.commit(scores_file.fingerprint(IDENTITY, shard), len(rows) + 1, "linear", {})
    return shard


def test_galleries_classes_bars_and_rejects_are_those_of_the_rows(tmp_path):
    generator = np.random.default_rng(0)
    scores = [generator.normal(0, 1, count).round(1) for count in (40, 0, 7)]
    shards = [committed(tmp_path, f"s{i}", part) for i, part in enumerate(scores)]
    shards.append(committed(tmp_path, "o", scores[2] - 1, source="foreign"))
    settings = ReportSettings(
        str(tmp_path / "run"), {"known": "in_distribution", "foreign": "out_distribution"}, "odin", -0.5, IDENTITY
    )
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create(shards) | WriteReportData(settings)
    data = json.loads((tmp_path / "run/report/data.json").read_text())

    everything = sorted(
        (score, shard.path, i) for shard, part in zip(shards, scores, strict=False) for i, score in enumerate(part)
    )
    lowest = [(row["score"], row["shard"], row["index"]) for row in data["galleries"]["known"]["lowest"]]
    assert lowest == everything[:ENDS]
    highest = [row["score"] for row in data["galleries"]["known"]["highest"]]
    assert highest == [score for score, _, _ in everything[::-1][:ENDS]]
    assert len(data["galleries"]["foreign"]["highest"]) == 7
    counts = {row["class"]: (row["count"], row["flagged"]) for row in data["classes"] if row["source"] == "known"}
    indices = [(i % 3, score < -0.5) for part in scores for i, score in enumerate(part)]
    assert counts == {c: (sum(k == c for k, _ in indices), sum(b for k, b in indices if k == c)) for c in range(3)}
    assert [row["class"] for row in data["examples"]["known"]] == sorted(
        counts, key=lambda c: (-counts[c][1], -counts[c][0], c)
    )
    for own in data["examples"]["known"]:
        assert (own["count"], own["flagged"]) == counts[own["class"]]
        of_class = [entry for entry in everything if entry[2] % 3 == own["class"]]
        assert [(row["score"], row["shard"], row["index"]) for row in own["rows"]] == of_class[:CLASS_ROWS]
    assert sum(data["bars"]["msp"]["counts"]["known"]) == 47
    assert data["bars"]["msp"]["threshold"] == np.sort(np.concatenate(scores))[47 - 45]
    assert data["rejects"] == [
        {"source": "foreign", "reason": "undecodable", "count": 1},
        {"source": "known", "reason": "undecodable", "count": 3},
    ]
    (pair,) = data["curves"]
    assert set(pair["detectors"]) == {"odin", "msp"}


def written_data(tmp_path, shards, flagged=False):
    roles = {shard.source: "input" for shard in shards}
    settings = ReportSettings(str(tmp_path / "run"), roles, "odin", None, IDENTITY, flagged)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        pipeline | beam.Create(shards) | WriteReportData(settings)
    return json.loads((tmp_path / "run/report/data.json").read_text())


def with_flags(folder, shard, p_values, indexes=None):
    """A file of flags of the shard's rows; an image of a p-value up to 0.05 is flagged, one without is neither."""
    indexes = range(len(p_values)) if indexes is None else indexes
    rows = [
        dict.fromkeys(schemas.FLAG_SCHEMA.names)
        | {"shard": shard.path, "index": i, "id": f"i{i}", "prediction": i % 3}
        | {"p_value": p, "is_ood": None if p is None else p <= 0.05}
        for i, p in zip(indexes, p_values, strict=True)
    ]
    path = Path(layout.flags_path(str(folder / "run"), shard))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schemas.FLAG_SCHEMA), path, row_group_size=2)


def test_with_flags_rows_come_by_p_value_before_score_and_flags_are_counted(tmp_path):
    shard = committed(tmp_path, "a", [5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    with_flags(tmp_path, shard, [0.5, 0.01, 0.05, 0.01, None, 0.7])
    data = written_data(tmp_path, [shard], flagged=True)
    ends = data["galleries"]["known"]
    assert [row["index"] for row in ends["lowest"]] == [3, 1, 2, 0, 5, 4]
    assert [row["index"] for row in ends["highest"]] == [5, 0, 2, 1, 3, 4]
    assert [(row["p_value"], row["is_ood"]) for row in ends["lowest"]][-2:] == [(0.7, False), (None, None)]
    # The classes are 0: 5.0, 2.0; 1: 4.0, 1.0; 2: 3.0, 0.0.
    assert [(own["class"], own["count"], own["flagged"]) for own in data["examples"]["known"]] == [
        (0, 2, 1),
        (1, 2, 1),
        (2, 2, 1),
    ]
    assert [[row["index"] for row in own["rows"]] for own in data["examples"]["known"]] == [[3, 0], [1, 4], [2, 5]]


@pytest.mark.parametrize(("p_values", "indexes"), [([0.5], None), ([0.5] * 3, None), ([0.5] * 2, [1, 0]), ([], None)])
def test_a_shard_whose_flags_are_of_other_rows_is_left_out(tmp_path, p_values, indexes):
    shard, other = committed(tmp_path, "a", [5.0, 4.0]), committed(tmp_path, "b", [3.0])
    with_flags(tmp_path, shard, p_values, indexes)
    with_flags(tmp_path, other, [0.5])
    data = written_data(tmp_path, [shard, other], flagged=True)
    (damaged,) = data["damaged_scores"]
    assert "has flags of other rows than the scores: run `flag` again" in damaged["reason"]
    assert [row["index"] for row in data["galleries"]["known"]["lowest"]] == [0]


def test_rows_are_kept_of_so_many_classes_and_no_more(tmp_path):
    table = pa.table(
        {name: pa.nulls(900) for name in ROW_COLUMNS}
        | {"index": np.arange(900), "prediction": np.arange(900) % 90, "odin": np.arange(900.0)}
    )
    shard = samples.shard(samples.write_shard(tmp_path / "a.tfrecord", []), "known")
    rows = lowest_by_class(table, "odin", shard, CLASS_ROWS)
    assert {name: [entry[-1]["index"] for entry in own] for name, own in rows.items()} == {
        c: [c + 90 * i for i in range(CLASS_ROWS)] for c in range(90)
    }
    predicted = np.arange(300) % (CLASSES + 5)
    shards = [committed(tmp_path, f"s{i}", predicted[i::2] * 1.0, predictions=predicted[i::2]) for i in range(2)]
    data = written_data(tmp_path, shards)
    assert [len(own["rows"]) for own in data["examples"]["known"]] == [CLASS_ROWS] * CLASSES
    assert len(data["classes"]) == CLASSES + 5


def test_the_curve_is_that_of_scikit_learn():
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(1, 1, 50).round(1), generator.normal(0, 1, 70).round(1)
    curve = roc_curve(ScoreHistogram.of(inside), ScoreHistogram.of(outside), 1000)
    fpr, tpr, _ = sklearn_roc_curve([1] * 50 + [0] * 70, np.concatenate([inside, outside]), drop_intermediate=False)
    np.testing.assert_allclose(curve["fpr"], fpr)
    np.testing.assert_allclose(curve["tpr"], tpr)


def test_a_thinned_curve_keeps_its_ends_its_shape_and_its_left_edge():
    generator = np.random.default_rng(0)
    inside, outside = generator.normal(2, 1, 20_000), generator.normal(0, 1, 20_000)
    whole = roc_curve(ScoreHistogram.of(inside), ScoreHistogram.of(outside), 10**6)
    thin = roc_curve(ScoreHistogram.of(inside), ScoreHistogram.of(outside), 400)
    assert len(thin["fpr"]) <= 402
    assert (thin["fpr"][0], thin["tpr"][0], thin["fpr"][-1], thin["tpr"][-1]) == (0, 0, 1, 1)
    points = np.array([thin["fpr"], thin["tpr"]]).T
    assert {tuple(point) for point in points} <= set(zip(whole["fpr"], whole["tpr"], strict=True))
    assert np.diff(points.sum(axis=1)).max() < 0.011
    assert sum(0 < fpr < 0.01 for fpr in thin["fpr"]) > 50


def test_bars_share_their_edges_and_lose_no_score():
    parts = {"a": ScoreHistogram.of(np.array([0.0, 1.0, 1.0])), "b": ScoreHistogram.of(np.array([-3.0, 5.0]))}
    bars = histogram_bars(parts)
    assert (bars["edges"][0], bars["edges"][-1]) == (-3, 5)
    assert {source: sum(counts) for source, counts in bars["counts"].items()} == {"a": 3, "b": 2}
    one = histogram_bars({"a": ScoreHistogram.of(np.array([2.0, 2.0]))})
    assert sum(one["counts"]["a"]) == 2


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_rows_without_a_score_are_not_below_the_threshold(threshold):
    table = pa.table({"prediction": [1, 1, 2], "odin": [0.1, None, 0.9]})
    assert class_counts(table, "odin", threshold) == {
        1: ClassCounts(2, 0 if threshold is None else 1),
        2: ClassCounts(1, 0),
    }
