"""From scores files to metrics.json: what enters, and what is said of it."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from odin_beam.transforms import errors
from odin_beam.transforms.detectors import registry
from odin_beam.transforms.metrics.combine_scores import read_shard_scores
from odin_beam.transforms.metrics.counts import Counts, add_up
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.metrics.summarize_scores import metrics_report, summary_report
from odin_beam.transforms.tables import parquet, schemas, scores_file
from odin_beam.transforms.tables.layout import scores_path
from tests.helpers import samples

ROLES = {"cats": "in_distribution", "dogs": "in_distribution", "noise": "out_distribution", "new": "input"}


def scores_of(seed, centre, count=200):
    return np.random.default_rng(seed).normal(centre, 1, count)


@pytest.fixture
def histograms():
    scores = {"cats": scores_of(0, 2), "dogs": scores_of(1, 1), "noise": scores_of(2, 0), "new": scores_of(3, 0)}
    return {(source, "msp"): ScoreHistogram.of(values) for source, values in scores.items()}


def test_every_in_and_out_of_distribution_pair_is_reported_and_inputs_are_in_none(histograms):
    counts = {source: Counts(1, 200, 200, 0, 200, 150) for source in ROLES}
    report = metrics_report(ROLES, histograms, counts, listed=5)
    assert [(p["in_distribution"], p["out_distribution"]) for p in report["pairs"]] == [
        ("cats", "noise"),
        ("dogs", "noise"),
    ]
    truth = [1] * 200 + [0] * 200
    values = np.concatenate([scores_of(1, 1), scores_of(2, 0)])
    dogs = report["pairs"][1]
    assert dogs["auroc"] == pytest.approx(roc_auc_score(truth, values), abs=1e-9)
    assert dogs["aupr_in"] == pytest.approx(average_precision_score(truth, values), abs=1e-9)
    assert (report["listed_shards"], report["scored_shards"]) == (5, 4)
    assert report["in_distribution"]["dogs"]["accuracy"] == 0.75
    assert report["in_distribution"]["dogs"]["threshold_at_95_tpr"]["msp"] == np.sort(scores_of(1, 1))[10]


def test_a_detector_or_source_without_scores_gives_no_pair(histograms):
    del histograms["noise", "msp"]
    report = metrics_report(ROLES, histograms, {}, listed=4)
    assert report["pairs"] == []
    assert report["in_distribution"]["cats"]["accuracy"] is None


def test_counts_add_up_field_by_field():
    assert add_up(Counts, [Counts(1, 10, 9, 1, 5, 4), Counts(2, 20, 20, 0, 0, 0)]) == Counts(3, 30, 29, 1, 5, 4)
    assert add_up(Counts, []) == Counts()


def test_a_failed_shard_makes_the_summary_incomplete(tmp_path):
    from odin_beam.transforms.metrics.summarize_scores import RunFacts

    shard = samples.shard(samples.write_shard(tmp_path / "x.tfrecord", []))
    facts = RunFacts({}, calibrated=False, launched=0.0)
    counts = {"photos": Counts(1, 100, 90, 10, 0, 0)}
    summary = summary_report(facts, {"photos": "input"}, counts, [(shard, "denied")], [])
    assert not summary["complete"]
    assert summary["failed_shards"] == [{"source": "photos", "path": shard.path, "reason": "denied"}]
    assert summary["rejected_share"] == 0.1


def committed(tmp_path, rows):
    """A committed scores file with the given label, prediction, msp rows; everything else null or constant."""
    shard = samples.shard(samples.write_shard(tmp_path / "x.tfrecord", []))
    full = [
        dict.fromkeys(schemas.SCORE_SCHEMA.names)
        | {"shard": shard.path, "index": i, "id": str(i), "label": label, "prediction": prediction, "msp": msp}
        for i, (label, prediction, msp) in enumerate(rows)
    ]
    with scores_file.ScoresWriter(str(tmp_path), shard) as writer:
        writer.write(pa.RecordBatch.from_pylist(full, schemas.SCORE_SCHEMA), [])
        writer.commit("f", len(full), "linear", {})
    return scores_path(str(tmp_path), shard)


def test_rows_become_counts_and_histograms_over_row_groups_and_null_columns(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 2)
    path = committed(tmp_path, [(1, 1, 0.5), (None, 2, 0.5), (0, 2, 0.9), (2, 2, 0.7), (None, 0, 0.1)])
    counts, histograms = read_shard_scores(path, "f", registry.DETECTORS)
    assert counts == Counts(shards=1, framed=5, scored=5, rejected=0, labelled=3, correct=2)
    assert histograms == {"msp": ScoreHistogram.of(np.array([0.1, 0.5, 0.5, 0.7, 0.9]))}


def test_a_shard_without_rows_gives_counts_and_no_histogram(tmp_path):
    assert read_shard_scores(committed(tmp_path, []), "f", registry.DETECTORS) == (Counts(shards=1), {})


def test_a_scores_file_that_was_damaged_since_stops_the_summary(tmp_path):
    path = committed(tmp_path, [(1, 1, 0.5)])
    with open(path, "r+b") as stream:
        stream.truncate(100)
    with pytest.raises(errors.StorageError, match="run `score` again"):
        read_shard_scores(path, "f", registry.DETECTORS)
