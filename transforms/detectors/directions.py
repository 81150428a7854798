"""Detectors on the direction and the length of the features; pure functions. High = in-distribution."""

import tensorflow as tf

from odin_beam.transforms.detectors.logits import energy, is_class
from odin_beam.transforms.fitting.residual import Residual

# Squared distance of two classes' weights relative to their squared lengths below which they count as equal.
_EQUAL = 1e-13


def vim(logits: tf.Tensor, features: tf.Tensor, residual: Residual) -> tf.Tensor:
    """Energy minus alpha times the norm of the features outside the principal subspace, `E(f) - alpha |R'(h - o)|`.

    ViM (Wang et al. 2022, https://arxiv.org/abs/2203.10807).

    Args:
      logits: float [N, K].
      features: float [N, D].
      residual: of the reference.

    Returns:
      float64 [N].
    """
    outside = (tf.cast(features, tf.float64) - residual.origin) @ residual.basis
    return energy(logits) - residual.alpha * tf.norm(outside, axis=1)


def fdbd(
    logits: tf.Tensor,
    features: tf.Tensor,
    kernel: tf.Tensor,
    mean: tf.Tensor,
    left_out: tf.Tensor | None = None,
) -> tf.Tensor:
    """Sum of the distances to the predicted class's decision boundaries, over the distance to the mean.

    fDBD (Liu and Qin 2024, https://arxiv.org/abs/2312.11536): `sum_c |f_c - f_y| / |w_c - w_y|`, over `|h - m|`.
    Classes with the weights of the predicted class have no boundary with it and are left out.

    Args:
      logits: float [N, K].
      features: float [N, D].
      kernel: float [D, K].
      mean: float64 [D], m, of the reference's features.
      left_out: int32 [N], a class whose boundaries do not count; see `leave_class_out`.

    Returns:
      float64 [N], >= 0; NaN for h = m.
    """
    logits, kernel = tf.cast(logits, tf.float64), tf.cast(kernel, tf.float64)
    lengths = tf.reduce_sum(tf.square(kernel), axis=0)
    predicted = tf.argmax(logits, axis=1)
    weights = tf.gather(tf.transpose(kernel), predicted)
    sums = lengths + tf.gather(lengths, predicted)[:, None]
    squares = sums - 2 * (weights @ kernel)
    distinct = squares > _EQUAL * sums
    if left_out is not None:
        distinct &= ~is_class(left_out, tf.shape(distinct)[1])
    gaps = tf.reduce_max(logits, axis=1, keepdims=True) - logits
    terms = tf.where(distinct, gaps / tf.sqrt(tf.where(distinct, squares, tf.ones_like(squares))), tf.zeros_like(gaps))
    return _nan_at_zero(tf.reduce_sum(terms, axis=1), _distance(features, mean))


def nci(logits: tf.Tensor, features: tf.Tensor, kernel: tf.Tensor, mean: tf.Tensor, weight: float = 1e-4) -> tf.Tensor:
    """Projection of the predicted class's weights on the centred features, plus a little of the features' L1 norm.

    NCI (Liu and Qin 2025, https://arxiv.org/abs/2311.01479): `w_y'(h - m) / |h - m| + 1e-4 |h|_1`. Arguments as in
    `fdbd`; `weight` is that of the norm.

    Returns:
      float64 [N]; NaN for h = m.
    """
    weights = tf.gather(tf.transpose(tf.cast(kernel, tf.float64)), tf.argmax(logits, axis=1))
    h = tf.cast(features, tf.float64)
    projection = _nan_at_zero(tf.reduce_sum(weights * (h - mean), axis=1), _distance(features, mean))
    return projection + weight * tf.reduce_sum(tf.abs(h), axis=1)


def she(logits: tf.Tensor, features: tf.Tensor, she_means: tf.Tensor, she_counts: tf.Tensor) -> tf.Tensor:
    """Inner product with the mean features of the predicted class's correctly classified images.

    SHE (Zhang et al. 2023, https://openreview.net/forum?id=KkazG4lgKL).

    Args:
      logits: float [N, K].
      features: float [N, D].
      she_means: float64 [K, D].
      she_counts: int64 [K], images behind each mean.

    Returns:
      float64 [N]; NaN where the predicted class has no such image.
    """
    predicted = tf.argmax(logits, axis=1)
    products = tf.reduce_sum(tf.cast(features, tf.float64) * tf.gather(she_means, predicted), axis=1)
    return _nan_at_zero(products, tf.cast(tf.gather(she_counts, predicted) > 0, tf.float64))


def _distance(features: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
    return tf.norm(tf.cast(features, tf.float64) - mean, axis=1)


def _nan_at_zero(numerator: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
    """The quotient; NaN, never infinite, where the denominator is 0."""
    return tf.where(denominator > 0, numerator / denominator, tf.constant(float("nan"), tf.float64))
