"""Detectors that reshape the features before the last dense layer; pure functions. High = in-distribution.

All are the energy, log sum exp, of the logits of the reshaped features. They were made for features behind a ReLU: the
score of an image with a negative feature is NaN.
"""

import tensorflow as tf

from odin_beam.transforms.detectors.logits import without_class


def scale(
    features: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    percentile: float = 85.0,
    left_out: tf.Tensor | None = None,
) -> tf.Tensor:
    """Energy of the features times exp(r), r = sum of all features / sum of the largest ones.

    SCALE (Xu et al. 2024, https://arxiv.org/abs/2310.00227), with the paper's 85th percentile. Features of 0 stay 0.

    Args:
      features: float [N, D], the input of the last dense layer.
      kernel: float [D, K], that layer's weights.
      bias: float [K].
      percentile: the largest D - round(D * percentile / 100) features, at least 1, count as large.
      left_out: int32 [N], the class that the logits leave out; see `leave_class_out`.

    Returns:
      float64 [N]; NaN where a feature is negative.
    """
    h = tf.cast(features, tf.float64)
    largest = tf.math.top_k(h, _kept(h, percentile), sorted=False).values
    ratio = tf.math.divide_no_nan(tf.reduce_sum(h, axis=1), tf.reduce_sum(largest, axis=1))
    return _of_positive(features, _energy(h * tf.exp(ratio)[:, None], kernel, bias, left_out))


def ash_b(
    features: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    percentile: float = 90.0,
    left_out: tf.Tensor | None = None,
) -> tf.Tensor:
    """Energy after the largest features have been set to an equal share of the sum of all, and the others to 0.

    ASH-B (Djurisic et al. 2023, https://arxiv.org/abs/2209.09858), with the paper's 90th percentile.

    Args:
      features: float [N, D], the input of the last dense layer.
      kernel: float [D, K], that layer's weights.
      bias: float [K].
      percentile: the largest D - round(D * percentile / 100) features are kept, at least 1.
      left_out: as in `scale`.

    Returns:
      float64 [N]; NaN where a feature is negative.
    """
    h = tf.cast(features, tf.float64)
    kept = _kept(h, percentile)
    columns = tf.math.top_k(features, kept, sorted=False).indices
    rows = tf.broadcast_to(tf.range(tf.shape(h)[0])[:, None], tf.shape(columns))
    share = tf.broadcast_to(tf.reduce_sum(h, axis=1, keepdims=True) / kept, tf.shape(columns))
    shaped = tf.scatter_nd(tf.stack([rows, columns], axis=-1), share, tf.shape(h))
    return _of_positive(features, _energy(shaped, kernel, bias, left_out))


def react(
    features: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, clip: float, left_out: tf.Tensor | None = None
) -> tf.Tensor:
    """Energy after features above a limit have been set to it.

    ReAct (Sun, Guo and Li 2021, https://arxiv.org/abs/2111.12797).

    Args:
      features: float [N, D], the input of the last dense layer.
      kernel: float [D, K], that layer's weights.
      bias: float [K].
      clip: the limit, a quantile of the reference's features.
      left_out: as in `scale`.

    Returns:
      float64 [N]; NaN where a feature is negative.
    """
    clipped = tf.minimum(tf.cast(features, tf.float64), tf.convert_to_tensor(clip, tf.float64))
    return _of_positive(features, _energy(clipped, kernel, bias, left_out))


def _kept(features: tf.Tensor, percentile: float) -> int:
    width = features.shape[1]
    return max(1, width - round(width * percentile / 100))


def _energy(features: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor, left_out: tf.Tensor | None) -> tf.Tensor:
    logits = features @ tf.cast(kernel, tf.float64) + tf.cast(bias, tf.float64)
    if left_out is not None:
        logits = without_class(logits, left_out)
    return tf.reduce_logsumexp(logits, axis=1)


def _of_positive(features: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    nan = tf.constant(float("nan"), tf.float64)
    return tf.where(tf.reduce_any(features < 0, axis=1), nan, scores)
