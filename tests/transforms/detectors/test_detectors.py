"""The scores of the clean forward, against NumPy, SciPy and a gradient."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from odin_beam.transforms.detectors.features import activation_map
from odin_beam.transforms.detectors.registry import CLEAN_DETECTORS
from odin_beam.transforms.model.activations import Activations

GENERATOR = np.random.default_rng(0)
RANDOM = GENERATOR.normal(0, 4, (200, 7)).astype(np.float32)
MAPS = GENERATOR.normal(0.5, 1, (200, 4, 3, 5)).astype(np.float32)
KERNEL = GENERATOR.normal(0, 1, (5, 7)).astype(np.float32)
BIAS = GENERATOR.normal(0, 1, 7).astype(np.float32)


def softmax(z):
    return special.softmax(z, axis=1)


def numpy_gen(z):
    p = np.sort(softmax(z), axis=1)[:, ::-1]
    return -np.sum(p**0.1 * (1 - p) ** 0.1, axis=1)


def numpy_maps(z):
    return np.stack([MAPS[n].astype(np.float64) @ KERNEL[:, z[n].argmax()] for n in range(len(z))])


def numpy_scale(z):
    h = MAPS.mean(axis=(1, 2)).astype(np.float64)
    # 5 - round(0.85 * 5) = 1 feature is large.
    scaled = h * np.exp(h.sum(axis=1) / h.max(axis=1))[:, None]
    return np.where((h < 0).any(axis=1), np.nan, special.logsumexp(scaled @ KERNEL + BIAS, axis=1))


def numpy_ash_b(z):
    h = MAPS.mean(axis=(1, 2)).astype(np.float64)
    # round(0.9 * 5) is 4, to even.
    shaped = np.where(h == h.max(axis=1, keepdims=True), h.sum(axis=1, keepdims=True), 0)
    return np.where((h < 0).any(axis=1), np.nan, special.logsumexp(shaped @ KERNEL + BIAS, axis=1))


EXPECTED = {
    "msp": lambda z: softmax(z).max(axis=1),
    "max_logit": lambda z: z.max(axis=1),
    "energy": lambda z: special.logsumexp(z, axis=1),
    "neg_entropy": lambda z: -special.entr(softmax(z)).sum(axis=1),
    "margin": lambda z: np.diff(np.sort(softmax(z), axis=1)[:, -2:], axis=1)[:, 0],
    "gen": numpy_gen,
    "grad_norm": lambda z: np.abs(MAPS.mean(axis=(1, 2))).sum(axis=1) * np.abs(softmax(z) - 1 / 7).sum(axis=1),
    "cam_var": lambda z: numpy_maps(z).var(axis=(1, 2)),
    "cam_max": lambda z: numpy_maps(z).max(axis=(1, 2)),
    "scale": numpy_scale,
    "ash_b": numpy_ash_b,
}
OF_LOGITS = [name for name, detector in CLEAN_DETECTORS.items() if detector.needs == ("logits",)]


def scores(name, logits):
    logits = tf.constant(logits)
    maps = tf.constant(MAPS[: len(logits)])
    activations = Activations(logits, tf.reduce_mean(maps, axis=(1, 2)), maps, tf.constant(KERNEL), tf.constant(BIAS))
    return CLEAN_DETECTORS[name](activations)


@pytest.mark.parametrize("name", CLEAN_DETECTORS)
def test_it_is_the_published_formula(name):
    got = scores(name, RANDOM)
    assert got.dtype == tf.float64
    # The features alone are averaged in float32.
    tolerance = 1e-5 if name in ("grad_norm", "scale", "ash_b") else 1e-10
    np.testing.assert_allclose(got, EXPECTED[name](RANDOM.astype(np.float64)), rtol=tolerance, atol=1e-15)


@pytest.mark.parametrize("name", OF_LOGITS)
def test_certainty_scores_above_doubt(name):
    certain, doubtful = scores(name, [[9.0, 0.0, 0.0], [0.1, 0.0, 0.0]]).numpy()
    assert certain > doubtful


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ([1e4, -1e4], {"msp": 1, "max_logit": 1e4, "energy": 1e4, "neg_entropy": 0, "margin": 1, "gen": 0}),
        ([-1e4, -1e4], {"msp": 0.5, "max_logit": -1e4, "energy": -1e4 + np.log(2), "margin": 0, "gen": -2 * 0.25**0.1}),
        ([0.0, 0.0, 0.0, 0.0], {"msp": 0.25, "energy": np.log(4), "neg_entropy": -np.log(4), "margin": 0}),
    ],
)
def test_extremes_and_ties_are_exact(row, expected):
    for name, value in expected.items():
        assert scores(name, [row]).numpy()[0] == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("name", OF_LOGITS)
def test_only_those_that_need_true_logits_change_with_a_constant_per_image(name):
    shifted = RANDOM.astype(np.float64) + np.linspace(-5, 5, 200)[:, None]
    differences = scores(name, shifted) - scores(name, RANDOM)
    assert (np.abs(differences).max() > 1) == CLEAN_DETECTORS[name].true_logits
    assert (np.abs(differences).max() < 1e-6) == (not CLEAN_DETECTORS[name].true_logits)


@pytest.mark.parametrize("name", OF_LOGITS)
def test_nan_stays_nan_and_does_not_reach_the_next_image(name):
    rows = np.array([[np.nan, 1.0, 2.0], [0.0, 1.0, 2.0]])
    got = scores(name, rows).numpy()
    assert np.isnan(got[0])
    assert got[1] == pytest.approx(EXPECTED[name](rows[1:])[0])


def test_gen_counts_the_largest_probabilities_and_tells_near_certainties_apart():
    logits = GENERATOR.normal(0, 2, (5, 300))
    p = np.sort(softmax(logits), axis=1)[:, :-101:-1]
    np.testing.assert_allclose(scores("gen", logits), -np.sum((p * (1 - p)) ** 0.1, axis=1), rtol=1e-10)
    # Here 1 - p is 0 in float64.
    near = scores("gen", [[40.0, 0.0], [60.0, 0.0], [80.0, 0.0]]).numpy()
    np.testing.assert_allclose(near, -2 * np.exp(np.array([-4.0, -6.0, -8.0])), rtol=1e-6)


def test_grad_norm_is_the_norm_of_the_gradient():
    features, kernel = tf.constant(MAPS.mean(axis=(1, 2))[:9]), tf.constant(KERNEL)
    expected = []
    for row in features:
        with tf.GradientTape() as tape:
            tape.watch(kernel)
            log_p = tf.nn.log_softmax(row[None] @ kernel)
            divergence = -tf.reduce_mean(log_p) - np.log(7)
        expected.append(tf.reduce_sum(tf.abs(tape.gradient(divergence, kernel))))
    got = CLEAN_DETECTORS["grad_norm"](Activations(features @ kernel, features))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_the_mean_of_the_activation_map_is_the_logit_without_bias():
    maps = tf.constant(MAPS)
    logits = tf.reduce_mean(maps, axis=(1, 2)) @ KERNEL
    means = tf.reduce_mean(activation_map(logits, maps, tf.constant(KERNEL)), axis=(1, 2))
    np.testing.assert_allclose(means, tf.reduce_max(logits, axis=1), rtol=1e-5)
