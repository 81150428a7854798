"""The scores of the clean forward, against NumPy and SciPy."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from transforms.detectors import CLEAN_DETECTORS, NEED_LOGITS

RANDOM = np.random.default_rng(0).normal(0, 4, (200, 7)).astype(np.float32)
EXPECTED = {
    "msp": lambda z: special.softmax(z, axis=1).max(axis=1),
    "max_logit": lambda z: z.max(axis=1),
    "energy": lambda z: special.logsumexp(z, axis=1),
    "neg_entropy": lambda z: -special.entr(special.softmax(z, axis=1)).sum(axis=1),
    "margin": lambda z: np.diff(np.sort(special.softmax(z, axis=1), axis=1)[:, -2:], axis=1)[:, 0],
}


@pytest.mark.parametrize("name", CLEAN_DETECTORS)
def test_it_is_the_published_formula(name):
    scores = CLEAN_DETECTORS[name](tf.constant(RANDOM))
    assert scores.dtype == tf.float64
    np.testing.assert_allclose(scores, EXPECTED[name](RANDOM.astype(np.float64)), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", CLEAN_DETECTORS)
def test_certainty_scores_above_doubt(name):
    certain, doubtful = CLEAN_DETECTORS[name](tf.constant([[9.0, 0.0, 0.0], [0.1, 0.0, 0.0]])).numpy()
    assert certain > doubtful


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([1e4, -1e4], {"msp": 1, "max_logit": 1e4, "energy": 1e4, "neg_entropy": 0, "margin": 1}),
        ([-1e4, -1e4], {"msp": 0.5, "max_logit": -1e4, "energy": -1e4 + np.log(2), "margin": 0}),
        ([0.0, 0.0, 0.0, 0.0], {"msp": 0.25, "energy": np.log(4), "neg_entropy": -np.log(4), "margin": 0}),
    ],
)
def test_extremes_and_ties_are_exact(row, expected):
    for name, value in expected.items():
        assert CLEAN_DETECTORS[name](tf.constant([row])).numpy()[0] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("name", CLEAN_DETECTORS)
def test_only_those_that_need_logits_change_with_a_constant_per_image(name):
    detector = CLEAN_DETECTORS[name]
    shifted = RANDOM.astype(np.float64) + np.linspace(-5, 5, 200)[:, None]
    differences = detector(tf.constant(shifted)) - detector(tf.constant(RANDOM))
    assert (np.abs(differences).max() > 1) == (name in NEED_LOGITS)
    assert (np.abs(differences).max() < 1e-6) == (name not in NEED_LOGITS)


@pytest.mark.parametrize("name", CLEAN_DETECTORS)
def test_nan_stays_nan_and_does_not_reach_the_next_image(name):
    rows = np.array([[np.nan, 1.0, 2.0], [0.0, 1.0, 2.0]])
    scores = CLEAN_DETECTORS[name](tf.constant(rows)).numpy()
    assert np.isnan(scores[0])
    assert scores[1] == pytest.approx(EXPECTED[name](rows[1:])[0])
