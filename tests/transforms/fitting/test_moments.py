"""Moments by class, against NumPy and scikit-learn, in any grouping."""

import io

import numpy as np
import pytest
from sklearn.covariance import EmpiricalCovariance

from odin_beam.transforms import limits
from odin_beam.transforms.fitting.moments import Moments

CLASSES, WIDTH = 4, 6


def images(count=300, offset=0.0, seed=0):
    """Features, logits, labels and predictions; the last class has one image only."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES - 1, count)
    labels[count // 2] = CLASSES - 1
    features = (rng.normal(size=(count, WIDTH)) + labels[:, None] + offset).astype(np.float32)
    logits = rng.normal(size=(count, CLASSES)).astype(np.float32)
    return features, logits, labels, logits.argmax(axis=1)


def moments_of(arrays, rows=slice(None)):
    moments = Moments(CLASSES, WIDTH)
    moments.add(*(array[rows] for array in arrays))
    return moments


def assert_close(a, b, rtol):
    b = b.to_arrays()
    for name, array in a.to_arrays().items():
        np.testing.assert_allclose(array, b[name], rtol=rtol, atol=rtol * np.abs(b[name]).max(), err_msg=name)


def test_they_are_those_of_numpy():
    features, logits, labels, predictions = arrays = images()
    moments, h = moments_of(arrays), features.astype(np.float64)
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    for part, rows in ((moments.features, h), (moments.unit, unit)):
        means = np.stack([rows[labels == c].mean(axis=0) for c in range(CLASSES)])
        np.testing.assert_array_equal(part.counts, np.bincount(labels))
        np.testing.assert_allclose(part.means, means, rtol=1e-12, atol=1e-12)
        centred = rows - means[labels]
        np.testing.assert_allclose(part.scatter, centred.T @ centred, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(part.mean, rows.mean(axis=0), rtol=1e-12, atol=1e-12)
    correct = [h[(labels == c) & (predictions == c)] for c in range(CLASSES)]
    np.testing.assert_array_equal(moments.correct.counts, [len(rows) for rows in correct])
    expected = [rows.mean(axis=0) if len(rows) else np.zeros(WIDTH) for rows in correct]
    np.testing.assert_allclose(moments.correct.means, expected, rtol=1e-12)
    assert moments.max_logit_sum == pytest.approx(logits.max(axis=1).sum(dtype=np.float64))


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_covariances_are_those_of_scikit_learn(offset):
    features, _, labels, _ = arrays = images(offset=offset)
    part = moments_of(arrays).features
    h = features.astype(np.float64)
    # About a constant: scikit-learn's own sums would lose digits.
    centred = h - np.stack([(h - offset)[labels == c].mean(axis=0) for c in range(CLASSES)])[labels] - offset
    within = EmpiricalCovariance(assume_centered=True).fit(centred).covariance_
    np.testing.assert_allclose(part.within, within, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(part.total, EmpiricalCovariance().fit(h - offset).covariance_, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize("seed", range(5))
def test_any_grouping_of_merges_agrees(offset, seed):
    arrays, rng = images(offset=offset), np.random.default_rng(seed)
    parts = [
        moments_of(arrays, rows) for rows in np.array_split(rng.permutation(300), rng.integers(1, 300, 9).cumsum())
    ]
    while len(parts) > 1:
        first = parts.pop(rng.integers(len(parts)))
        parts[rng.integers(len(parts))].merge(first)
    assert_close(parts[0], moments_of(arrays), 1e-9)


def test_features_of_zero_are_left_out_of_unit_features_only():
    features, *others = images()
    features[:10] = 0
    moments = moments_of((features, *others))
    assert (moments.features.counts.sum(), moments.unit.counts.sum()) == (300, 290)
    assert np.isfinite(moments.unit.scatter).all()


def test_extreme_features_have_unit_features():
    features = np.float32([[1e30, 0], [1e-30, 0], [-3e38, 3e38]])
    moments = Moments(2, 2)
    moments.add(features, np.zeros((3, 2), np.float32), np.zeros(3, int), np.zeros(3, int))
    np.testing.assert_allclose(moments.unit.means[0], [(2 - 0.5**0.5) / 3, 0.5**0.5 / 3])


def test_no_images_change_nothing():
    moments = moments_of(images())
    moments.add(*(array[:0] for array in images()))
    moments.merge(Moments(CLASSES, WIDTH))
    assert_close(moments, moments_of(images()), 0)


def test_a_file_without_pickles_gives_them_again():
    moments, buffer = moments_of(images()), io.BytesIO()
    np.savez(buffer, **moments.to_arrays())
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as arrays:
        again = Moments.from_arrays(arrays)
    assert_close(again, moments, 0)
    again.merge(moments)
    assert again.count == 600


@pytest.mark.parametrize(
    "change",
    [
        {"features_means": np.zeros((CLASSES, WIDTH + 1))},
        {"features_counts": np.zeros(CLASSES)},
        {"classes": np.array(9)},
        {"correct_means": np.array(1.0)},
        {"unit_scatter": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_arrays_that_do_not_fit_are_refused(change):
    arrays = {name: a for name, a in {**moments_of(images()).to_arrays(), **change}.items() if a is not None}
    with pytest.raises(ValueError, match="not moments of features"):
        Moments.from_arrays(arrays)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [(0, np.nan, "NaN"), (1, np.inf, "NaN"), (2, CLASSES, "labels"), (2, -1, "labels")],
)
def test_what_cannot_be_added_is_refused_whole(position, value, message):
    arrays = images()
    arrays[position][3] = value
    moments = Moments(CLASSES, WIDTH)
    with pytest.raises(ValueError, match=message):
        moments.add(*arrays)
    assert moments.count == 0


def test_moments_of_other_sizes_do_not_merge():
    with pytest.raises(ValueError, match="cannot merge"):
        Moments(3, 4).merge(Moments(3, 5))


def test_past_the_limits_only_what_fits_is_kept(monkeypatch):
    features, *_ = arrays = images()
    monkeypatch.setattr(limits, "MAX_CLASS_MEANS", CLASSES * WIDTH - 1)
    pooled = moments_of(arrays)
    np.testing.assert_allclose(pooled.features.within, np.cov(features.T, bias=True), rtol=1e-5)
    monkeypatch.setattr(limits, "MAX_SCATTER_WIDTH", WIDTH - 1)
    assert set(vars(moments_of(arrays).features)) == {"counts", "means"}
    np.testing.assert_allclose(moments_of(arrays).features.mean, features.mean(axis=0), rtol=1e-5)
    assert_close(Moments.from_arrays(moments_of(arrays).to_arrays()), moments_of(arrays), 0)
