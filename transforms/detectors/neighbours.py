"""Detectors that compare features with a bank of them; pure functions. High = in-distribution.

Both take the product of all unit features with the bank, which TensorFlow computes once. It is in float32: the cosines
are wrong by 1e-7, three orders of magnitude below what tells images apart.
"""

import tensorflow as tf

from odin_beam.transforms.detectors.distances import unit
from odin_beam.transforms.detectors.logits import energy


def knn(
    features: tf.Tensor, bank: tf.Tensor, bank_labels: tf.Tensor, k: int, left_out: tf.Tensor | None = None
) -> tf.Tensor:
    """Minus the squared distance of h / |h| to its k-th nearest neighbour in the bank.

    KNN (Sun et al. 2022, https://arxiv.org/abs/2204.06507).

    Args:
      features: float [N, D].
      bank: float32 [B, D], unit features of the reference.
      bank_labels: int32 [B], their classes.
      k: 1 to B.
      left_out: int32 [N], a class whose rows of the bank are not looked at; see `leave_class_out`.

    Returns:
      float64 [N], -4 to 0; NaN for h = 0, and minus infinity where less than k rows are looked at.
    """
    cosines = _looked_at(_cosines(features, bank), bank_labels, left_out)
    kth = tf.reduce_min(tf.math.top_k(cosines, k, sorted=False).values, axis=1)
    return _nan_with(features, 2 * tf.minimum(tf.cast(kth, tf.float64), 1) - 2)


def nnguide(
    logits: tf.Tensor,
    features: tf.Tensor,
    bank: tf.Tensor,
    bank_labels: tf.Tensor,
    bank_energies: tf.Tensor,
    k: int,
    left_out: tf.Tensor | None = None,
) -> tf.Tensor:
    """Energy times the mean of the k largest products of cosine and energy over the bank.

    NNGuide (Park, Jung and Teoh 2023, https://arxiv.org/abs/2309.14888).

    Args:
      logits: float [N, K].
      features: float [N, D].
      bank: float32 [B, D], unit features of the reference.
      bank_labels: int32 [B], their classes.
      bank_energies: float32 [B].
      k: 1 to B.
      left_out: as in `knn`.

    Returns:
      float64 [N]; NaN where the energy is not above 0, or for h = 0, and minus infinity as in `knn`.
    """
    products = _looked_at(_cosines(features, bank) * bank_energies, bank_labels, left_out)
    guides = tf.math.top_k(products, k, sorted=False).values
    energies = energy(logits)
    scores = energies * tf.reduce_mean(tf.cast(guides, tf.float64), axis=1)
    return _nan_with(features, tf.where(energies > 0, scores, tf.constant(float("nan"), tf.float64)))


def _cosines(features: tf.Tensor, bank: tf.Tensor) -> tf.Tensor:
    return tf.matmul(tf.cast(unit(features), tf.float32), bank, transpose_b=True)


def _looked_at(similarities: tf.Tensor, bank_labels: tf.Tensor, left_out: tf.Tensor | None) -> tf.Tensor:
    """float32 [N, B], minus infinity for rows of the class that is left out."""
    if left_out is None:
        return similarities
    absent = left_out[:, None] == bank_labels
    return tf.where(absent, tf.constant(float("-inf"), tf.float32), similarities)


def _nan_with(features: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """NaN for h = 0: the order of NaNs among the largest is not defined."""
    return tf.where(tf.reduce_any(features != 0, axis=1), scores, tf.constant(float("nan"), tf.float64))
