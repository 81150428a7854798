"""A classifier without the class that it predicts."""

import numpy as np
import tensorflow as tf

from odin_beam.transforms.detectors.logits import without_class
from odin_beam.transforms.detectors.odin import max_softmax


def largest(logits):
    return tf.argmax(logits, axis=1)


def test_the_largest_logit_becomes_the_mean_of_the_others():
    logits = tf.constant([[1.0, 5.0, 3.0], [4.0, 0.0, -2.0]])
    np.testing.assert_allclose(without_class(logits, largest(logits)), [[1.0, 2.0, 3.0], [-1.0, 0.0, -2.0]])


def test_an_image_with_a_logit_that_is_not_finite_stays_so():
    logits = tf.constant([[1.0, np.nan, 3.0], [np.nan, np.nan, np.nan], [1.0, np.inf, -np.inf]])
    assert not np.isfinite(without_class(logits, largest(logits)).numpy()).all(axis=1).any()


def test_scores_at_a_high_temperature_stay_comparable():
    """The largest softmax at T = 1000 tells how far the largest logit is above the mean, with and without a class."""
    rng = np.random.default_rng(0)
    known = rng.normal(size=(100, 10))
    confident = known.copy()
    confident[:, 0] += 20
    without = without_class(tf.constant(confident), largest(confident))
    score, without = (max_softmax(tf.constant(x), 1000.0).numpy() for x in (confident, without))
    assert (without < score).all()


def test_of_two_classes_nothing_is_left():
    logits = tf.random.normal([5, 2])
    np.testing.assert_allclose(max_softmax(without_class(logits, largest(logits)), 1.0), 0.5)
