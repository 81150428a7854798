"""From committed features to a reference: what the steps leave is what all images at once would give."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import logsumexp

from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.fitting import feature_rows
from odin_beam.transforms.fitting.bank import Bank
from odin_beam.transforms.fitting.feature_rows import (
    LastLayerWeights,
    read_feature_rows,
    read_last_layer,
    write_last_layer,
)
from odin_beam.transforms.fitting.fit_steps import FitSteps, read_counts, read_residual_sum, read_subspace
from odin_beam.transforms.fitting.reference import fit_reference
from odin_beam.transforms.fitting.statistics_file import read_statistics
from odin_beam.transforms.metrics.counts import Counts
from odin_beam.transforms.shards.contents.tfrecords import TFRecords
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables import layout, scores_file
from odin_beam.transforms.tables.schemas import features_schema
from tests.helpers.feature_fits import comparable, fit, images


def commit(folder, number, of, rows, labels=None, predictions=None):
    """The features of some rows as a shard of the run in the folder."""
    shard = Shard("s", "in_distribution", f"/{number}", 1, 0.0, f"{number}.parquet", TFRecords())
    schema, count = features_schema(of.features.shape[1]), len(rows)
    columns = {
        "shard": [shard.path] * count,
        "index": np.arange(count),
        "id": [f"i{row}" for row in rows],
        "uri": [f"{shard.path}#{index}" for index in range(count)],
        "image_digest": np.asarray(rows, np.int64),
        "label": of.labels[rows].tolist() if labels is None else labels,
        "prediction": (of.predictions[rows] if predictions is None else predictions).astype(np.int32),
    }
    arrays = [pa.array(column, schema.field(name).type) for name, column in columns.items()]
    arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(of.features[rows].ravel()), of.features.shape[1]))
    with scores_file.ScoresWriter(str(folder), shard, schema, layout.FEATURES) as writer:
        writer.write(pa.record_batch(arrays, schema=schema), [])
        writer.commit(scores_file.fingerprint({}, shard), count, "linear", {})
    return shard


def weights(of):
    return LastLayerWeights(of.kernel, of.bias)


def run(folder, shards, bank=200, sample=10**6, groups=5):
    """(steps, sums, reference) of these shards."""
    steps, grouped = FitSteps(str(folder), {}, bank, sample, groups), {}
    for shard in shards:
        grouped.setdefault(steps.group_of(shard), []).append(shard)
    chosen = steps.choose_sample([steps.read_digests(*group) for group in grouped.items()])
    subspace = steps.merge_moments([steps.read_moments(*group, chosen) for group in grouped.items()])
    residuals = [steps.read_residuals(*group, chosen, subspace) for group in grouped.items()]
    sums, total = steps.merged(), read_residual_sum(residuals)
    weights, subspace = read_last_layer(str(folder)), read_subspace(subspace)
    return steps, sums, fit_reference(sums.moments, sums.histogram, sums.bank, weights, subspace, total)


@pytest.mark.parametrize("count", [1, 9])
def test_the_reference_is_that_of_all_images_at_once(tmp_path, monkeypatch, count):
    monkeypatch.setattr(feature_rows, "_BLOCK_ROWS", 64)
    of = images(600)
    write_last_layer(str(tmp_path), weights(of))
    order = np.random.default_rng(3).permutation(600)
    shards = [commit(tmp_path, i, of, rows) for i, rows in enumerate(np.array_split(order, count))]
    reference, whole = run(tmp_path, shards)[2], fit(of)
    assert reference.arrays().keys() == whole.arrays().keys()
    assert reference.unavailable == whole.unavailable == {}
    found = comparable(reference)
    for name, array in comparable(whole).items():
        np.testing.assert_allclose(found[name], array, rtol=2e-6, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(reference.bank, whole.bank)


def test_a_sample_takes_the_lowest_digests_of_all_files(tmp_path):
    of = images(300)
    write_last_layer(str(tmp_path), weights(of))
    shards = [commit(tmp_path, i, of, rows) for i, rows in enumerate(np.array_split(np.arange(300)[::-1], 7))]
    steps, sums, _ = run(tmp_path, shards, sample=100)
    np.testing.assert_array_equal(steps.fitted_digests(), np.arange(100))
    np.testing.assert_array_equal(sums.by_class[0], np.bincount(of.labels[:100], minlength=5))


def test_copies_at_the_limit_are_counted_exactly(tmp_path):
    of = images(40)
    write_last_layer(str(tmp_path), weights(of))
    shards = [commit(tmp_path, i, of, np.array([3, 7, 7, 7, 9])) for i in range(4)]
    assert run(tmp_path, shards, sample=6)[1].moments.count == 6


def test_images_without_a_class_of_the_model_count_as_predicted(tmp_path):
    of = images(100)
    write_last_layer(str(tmp_path), weights(of))
    labels = [None, -4, 5, *of.labels[3:].tolist()]
    steps, sums, _ = run(tmp_path, [commit(tmp_path, 0, of, np.arange(100), labels)])
    classes = np.concatenate([of.predictions[:3], of.labels[3:]])
    np.testing.assert_array_equal(sums.moments.features.counts, np.bincount(classes, minlength=5))
    assert sums.by_class[1].sum() == 97
    correct = int(np.sum(of.labels[3:] == of.predictions[3:]))
    assert sums.by_class[2].sum() == correct
    assert read_counts([steps.read_digests(0, [])]) == {}


def test_counts_are_those_of_the_files(tmp_path):
    of = images(50)
    shards = [commit(tmp_path, i, of, np.arange(25) + 25 * i) for i in range(2)]
    steps = FitSteps(str(tmp_path), {}, 10, 10, 1)
    correct = int(np.sum(of.labels == of.predictions))
    assert read_counts([steps.read_digests(0, shards)]) == {"s": Counts(2, 50, 50, 0, 50, correct)}


@pytest.mark.parametrize("problem", ["a feature", "a prediction"])
def test_what_no_run_writes_is_refused(tmp_path, problem):
    of = images(20)
    predictions = of.predictions.copy()
    if problem == "a feature":
        of.features[7, 3] = np.nan
    else:
        predictions[4] = 5
    shard = commit(tmp_path, 0, of, np.arange(20), predictions=predictions)
    with pytest.raises(StorageError, match=r"is damaged .*run"):
        list(read_feature_rows(str(tmp_path), [shard], {}, weights(of), None))


def test_blocks_cross_files_and_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_rows, "_BLOCK_ROWS", 50)
    of = images(210)
    shards = [commit(tmp_path, i, of, rows) for i, rows in enumerate(np.array_split(np.arange(210), 21))]
    blocks = list(read_feature_rows(str(tmp_path), shards, {}, weights(of), None))
    assert [len(block.features) for block in blocks] == [50, 50, 50, 50, 10]
    np.testing.assert_array_equal(np.concatenate([block.features for block in blocks]), of.features)
    np.testing.assert_allclose(np.concatenate([block.logits for block in blocks]), of.logits, rtol=1e-4, atol=1e-4)


def test_a_step_that_is_done_is_not_repeated(tmp_path, monkeypatch):
    of = images(100)
    write_last_layer(str(tmp_path), weights(of))
    shards = [commit(tmp_path, i, of, np.arange(50) + 50 * i) for i in range(2)]
    run(tmp_path, shards, groups=1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "statistics").iterdir()}
    assert len(before) == 6
    run(tmp_path, shards, groups=1)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    # Another bank changes what depends on it, and nothing else.
    run(tmp_path, shards, bank=20, groups=1)
    changed = {path.name for path in before if path.stat().st_mtime_ns != before[path]}
    assert changed == {"moments-00-of-01.npz", "merged.npz", "subspace.npz", "residuals-00-of-01.npz"}


def test_the_bank_s_energies_are_those_of_the_logits(tmp_path):
    of = images(60)
    write_last_layer(str(tmp_path), weights(of))
    bank = run(tmp_path, [commit(tmp_path, 0, of, np.arange(60))])[1].bank
    assert isinstance(bank, Bank)
    np.testing.assert_allclose(bank.energies, logsumexp(of.logits[bank.digests.astype(int)], axis=1), rtol=1e-5)


def test_weights_that_were_altered_are_refused(tmp_path):
    of = images(60)
    write_last_layer(str(tmp_path), weights(of))
    path = layout.last_layer_path(str(tmp_path))
    assert read_statistics(path).keys() == {"kernel", "bias"}
    feature_rows.write_statistics(path, "0" * 64, weights(of)._asdict())
    with pytest.raises(StorageError, match=r"last_layer\.npz is damaged"):
        feature_rows.read_last_layer(str(tmp_path))


def test_row_groups_have_16_megabytes(tmp_path):
    shard = Shard("s", "in_distribution", "/0", 1, 0.0, "0.parquet", TFRecords())
    schema = features_schema(4096)
    features = np.random.default_rng(0).normal(size=(600, 4096)).astype(np.float32)
    columns = [["/0"] * 600, range(600), ["i"] * 600, ["/0#0"] * 600, range(600), [None] * 600, [0] * 600]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=False)]
    arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), 4096))
    with scores_file.ScoresWriter(str(tmp_path), shard, schema, layout.FEATURES) as writer:
        for _ in range(3):
            writer.write(pa.record_batch(arrays, schema=schema), [])
        writer.commit("f", 1800, "linear", {})
    metadata = pq.read_metadata(layout.rows_path(str(tmp_path), shard, layout.FEATURES))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [1200, 600]


def test_a_file_that_is_cut_off_says_which_job_makes_it(tmp_path):
    of = images(20)
    shard = commit(tmp_path, 0, of, np.arange(20))
    with open(layout.rows_path(str(tmp_path), shard, layout.FEATURES), "r+b") as file:
        file.truncate(100)
    with pytest.raises(StorageError, match=r"remove it and run `fit` or `score` again"):
        FitSteps(str(tmp_path), {}, 10, 10, 1).read_digests(0, [shard])
