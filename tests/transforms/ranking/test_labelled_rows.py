"""Scores of labelled images as a calibration."""

import numpy as np
import pytest

from odin_beam.transforms.ranking.labelled_rows import LabelledRow, calibration_sample, key_digest, labels_digest


def test_equal_weights_give_the_scores_themselves():
    scores = np.random.default_rng(0).normal(size=57)
    np.testing.assert_array_equal(calibration_sample(scores, np.full(57, 3.0)), np.sort(scores))


def test_weighted_scores_give_the_quantiles_of_what_they_stand_for():
    """200 low scores that stand for 1 image each, and 1,000 high ones for 20 each."""
    rng = np.random.default_rng(1)
    low, high = rng.uniform(-1, 0, 200), rng.uniform(0, 1, 1000)
    weights = np.repeat([1.0, 20.0], [200, 1000])
    sample = calibration_sample(np.concatenate([low, high]), weights)
    assert len(sample) == int(weights.sum() ** 2 / np.square(weights).sum())
    assert np.mean(sample < 0) == pytest.approx(200 / 20_200, abs=2 / len(sample))
    assert np.median(sample) == pytest.approx(np.median(np.repeat(high, 20)), abs=0.01)


def test_one_score_and_ties():
    assert calibration_sample(np.array([2.0]), np.array([7.0])).tolist() == [2.0]
    assert set(calibration_sample(np.full(9, 2.0), np.arange(1.0, 10))) == {2.0}


def test_digests_tell_images_and_labels_apart():
    row = LabelledRow(("/a", 1), True, True, 0.0)
    assert labels_digest([row]) != labels_digest([LabelledRow(("/a", 1), False, True, 0.0)])
    assert key_digest(("/a", 1)) != key_digest(("/a", 2)) != key_digest(("/a1", 2))
    assert 0 <= key_digest(("/a", 1)) < 1 << 63
