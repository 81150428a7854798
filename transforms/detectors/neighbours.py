"""Detectors that compare features with a bank of them; pure functions. High = in-distribution.

Both take the product of all unit features with the bank, which TensorFlow computes once. It is in float32: the cosines
are wrong by 1e-7, three orders of magnitude below what tells images apart.
"""

import tensorflow as tf

from odin_beam.transforms.detectors.distances import unit
from odin_beam.transforms.detectors.logits import energy


def knn(features: tf.Tensor, bank: tf.Tensor, k: int) -> tf.Tensor:
    """Minus the squared distance of h / |h| to its k-th nearest neighbour in the bank.

    KNN (Sun et al. 2022, https://arxiv.org/abs/2204.06507).

    Args:
      features: float [N, D].
      bank: float32 [B, D], unit features of the reference.
      k: 1 to B.

    Returns:
      float64 [N], -4 to 0; NaN for h = 0.
    """
    cosines = _cosines(features, bank)
    kth = tf.reduce_min(tf.math.top_k(cosines, k, sorted=False).values, axis=1)
    return _nan_with(features, 2 * tf.minimum(tf.cast(kth, tf.float64), 1) - 2)


def nnguide(logits: tf.Tensor, features: tf.Tensor, bank: tf.Tensor, bank_energies: tf.Tensor, k: int) -> tf.Tensor:
    """Energy times the mean of the k largest products of cosine and energy over the bank.

    NNGuide (Park, Jung and Teoh 2023, https://arxiv.org/abs/2309.14888).

    Args:
      logits: float [N, K].
      features: float [N, D].
      bank: float32 [B, D], unit features of the reference.
      bank_energies: float32 [B].
      k: 1 to B.

    Returns:
      float64 [N]; NaN where the energy is not above 0, or for h = 0.
    """
    guides = tf.math.top_k(_cosines(features, bank) * bank_energies, k, sorted=False).values
    energies = energy(logits)
    scores = energies * tf.reduce_mean(tf.cast(guides, tf.float64), axis=1)
    return _nan_with(features, tf.where(energies > 0, scores, tf.constant(float("nan"), tf.float64)))


def _cosines(features: tf.Tensor, bank: tf.Tensor) -> tf.Tensor:
    return tf.matmul(tf.cast(unit(features), tf.float32), bank, transpose_b=True)


def _nan_with(features: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """NaN for h = 0: the order of NaNs among the largest is not defined."""
    return tf.where(tf.reduce_any(features != 0, axis=1), scores, tf.constant(float("nan"), tf.float64))
