"""What the report is drawn from, against NumPy on the rows themselves."""

import json

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_curve as sklearn_roc_curve

from odin_beam.transforms.metrics.detection_metrics import roc_curve
from odin_beam.transforms.metrics.report_data import (
    GALLERY,
    ClassCounts,
    ReportSettings,
    WriteReportData,
    class_counts,
    histogram_bars,
)
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.tables import schemas, scores_file
from tests.helpers import samples

IDENTITY = {"temperature": 1.0}


def committed(folder, name, scores, source="known"):
    """A scores file whose msp, odin and odin_logit are these; the prediction is the index modulo 3."""
    shard = samples.shard(samples.write_shard(folder / f"{name}.tfrecord", []), source)
    rows = [
        dict.fromkeys(schemas.SCORE_SCHEMA.names)
        | {"shard": shard.path, "index": i, "id": f"{name}{i}", "prediction": i % 3}
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
    assert lowest == everything[:GALLERY]
    highest = [row["score"] for row in data["galleries"]["known"]["highest"]]
    assert highest == [score for score, _, _ in everything[::-1][:GALLERY]]
    assert len(data["galleries"]["foreign"]["highest"]) == 7
    counts = {row["class"]: (row["count"], row["below"]) for row in data["classes"] if row["source"] == "known"}
    indices = [(i % 3, score < -0.5) for part in scores for i, score in enumerate(part)]
    assert counts == {c: (sum(k == c for k, _ in indices), sum(b for k, b in indices if k == c)) for c in range(3)}
    assert sum(data["bars"]["msp"]["counts"]["known"]) == 47
    assert data["bars"]["msp"]["threshold"] == np.sort(np.concatenate(scores))[47 - 45]
    assert data["rejects"] == [
        {"source": "foreign", "reason": "undecodable", "count": 1},
        {"source": "known", "reason": "undecodable", "count": 3},
    ]
    (pair,) = data["curves"]
    assert set(pair["detectors"]) == {"odin", "msp"}


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
