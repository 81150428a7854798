"""Detectors that reshape the features: edge cases, and the independent implementation's scores."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from odin_beam.transforms.detectors.shaping import ash_b, react, scale
from odin_beam.transforms.model.classifier import load_classifier
from tests.helpers import samples

RNG = np.random.default_rng(0)
KERNEL, BIAS = RNG.normal(size=(40, 6)), RNG.normal(size=6)
FUNCTIONS = {"scale": scale, "ash_b": ash_b, "react": lambda *given: react(*given, clip=0.3)}


def energy(h):
    return special.logsumexp(h @ KERNEL + BIAS, axis=1)


def features(count=20):
    return np.maximum(RNG.normal(size=(count, 40)), 0).astype(np.float32)


def test_they_are_the_published_formulas():
    h = features().astype(np.float64)
    ordered = np.sort(h, axis=1)
    ratio = h.sum(axis=1) / ordered[:, -6:].sum(axis=1)
    np.testing.assert_allclose(scale(h, KERNEL, BIAS), energy(h * np.exp(ratio)[:, None]), rtol=1e-12)
    shaped = np.where(h >= ordered[:, -4:-3], h.sum(axis=1, keepdims=True) / 4, 0)
    np.testing.assert_allclose(ash_b(h, KERNEL, BIAS), energy(shaped), rtol=1e-12)
    np.testing.assert_allclose(react(h, KERNEL, BIAS, 0.3), energy(np.minimum(h, 0.3)), rtol=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_an_image_with_a_negative_feature_has_no_score(function):
    h = features(3)
    h[1, 7] = -1e-6
    np.testing.assert_array_equal(np.isnan(function(tf.constant(h), KERNEL, BIAS)), [False, True, False])


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_features_of_zero_give_the_energy_of_the_bias(function):
    got = function(tf.zeros((2, 40)), KERNEL, BIAS)
    np.testing.assert_allclose(got, energy(np.zeros((2, 40))), rtol=1e-12)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_a_single_feature_counts_as_large(function):
    assert np.isfinite(function(tf.constant([[0.2]]), KERNEL[:1], BIAS)).all()


def test_ties_keep_as_many_features_as_without():
    got = ash_b(tf.ones((1, 40)), np.ones((40, 2)), np.zeros(2))
    np.testing.assert_allclose(got, 40 + np.log(2))


def test_scores_are_those_of_the_independent_implementation():
    layer = load_classifier(str(samples.real("densenet_bc_100_12_cifar10.keras"))).last_layer
    with np.load(samples.real("feature_reference.npz")) as stored:
        for source in ("in", "out", "near"):
            h = tf.constant(stored[f"{source}_features"])
            for name, function in (("scale", scale), ("ash_b", ash_b)):
                got = function(h, layer.kernel, layer.bias)
                np.testing.assert_allclose(got, stored[f"{source}_{name}"], rtol=1e-5)
            got = react(h, layer.kernel, layer.bias, float(stored["react_clip"]))
            np.testing.assert_allclose(got, stored[f"{source}_react"], rtol=1e-5)
