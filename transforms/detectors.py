"""The other scores that ODIN's clean forward gives at no cost; pure functions. High = in-distribution."""

import tensorflow as tf

from transforms.odin import max_softmax


def msp(logits: tf.Tensor) -> tf.Tensor:
    """Maximum softmax probability, `max_i softmax(f)_i` (Hendrycks and Gimpel 2017, https://arxiv.org/abs/1610.02136).

    Args:
      logits: float [N, K].

    Returns:
      float64 [N], in [1/K, 1].
    """
    return max_softmax(logits, 1.0)


def max_logit(logits: tf.Tensor) -> tf.Tensor:
    """The largest logit, `max_i f_i` (Hendrycks et al. 2022, https://arxiv.org/abs/1911.11132).

    Args:
      logits: float [N, K].

    Returns:
      float64 [N].
    """
    return tf.reduce_max(tf.cast(logits, tf.float64), axis=1)


def energy(logits: tf.Tensor) -> tf.Tensor:
    """Negative free energy at T = 1, `log sum_i exp f_i` (Liu et al. 2020, https://arxiv.org/abs/2010.03759).

    Args:
      logits: float [N, K].

    Returns:
      float64 [N].
    """
    return tf.reduce_logsumexp(tf.cast(logits, tf.float64), axis=1)


def neg_entropy(logits: tf.Tensor) -> tf.Tensor:
    """Negative entropy of the softmax, `sum_i p_i log p_i`, in nats.

    Args:
      logits: float [N, K].

    Returns:
      float64 [N], in [-log K, 0].
    """
    log_p = tf.nn.log_softmax(tf.cast(logits, tf.float64))
    return tf.reduce_sum(tf.math.multiply_no_nan(log_p, tf.exp(log_p)), axis=1)


def margin(logits: tf.Tensor) -> tf.Tensor:
    """Difference of the two largest softmax probabilities, `p_(1) - p_(2)`.

    Args:
      logits: float [N, K], K >= 2.

    Returns:
      float64 [N], in [0, 1].
    """
    top = tf.math.top_k(tf.nn.softmax(tf.cast(logits, tf.float64)), k=2).values
    return top[:, 0] - top[:, 1]


CLEAN_DETECTORS = {
    "msp": msp,
    "max_logit": max_logit,
    "energy": energy,
    "neg_entropy": neg_entropy,
    "margin": margin,
}
# These change with a constant added to all logits of an image, so they need true logits, not log-probabilities.
NEED_LOGITS = frozenset({"max_logit", "energy"})
