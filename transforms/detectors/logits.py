"""Detectors on the logits of the clean forward pass; pure functions. High = in-distribution."""

import tensorflow as tf

from odin_beam.transforms.detectors.odin import max_softmax


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
    """Difference between the two largest softmax probabilities, `p_(1) - p_(2)`.

    Args:
      logits: float [N, K], K >= 2.

    Returns:
      float64 [N], in [0, 1].
    """
    top = tf.math.top_k(tf.nn.softmax(tf.cast(logits, tf.float64)), k=2).values
    return top[:, 0] - top[:, 1]


def gen(logits: tf.Tensor, gamma: float = 0.1, top: int = 100) -> tf.Tensor:
    """Negative generalised entropy, `-sum_j p_j^gamma (1 - p_j)^gamma` over the `top` largest probabilities.

    GEN (Liu, Lochman and Zach 2023, https://openaccess.thecvf.com/content/CVPR2023/html/
    Liu_GEN_Pushing_the_Limits_of_Softmax-Based_Out-of-Distribution_Detection_CVPR_2023_paper.html), with the paper's
    gamma = 0.1 and M = 100; with fewer classes, all of them count.

    Args:
      logits: float [N, K].
      gamma: in (0, 1).
      top: M, how many probabilities are summed.

    Returns:
      float64 [N], <= 0.
    """
    logits = tf.cast(logits, tf.float64)
    p = tf.nn.softmax(logits)
    largest = tf.one_hot(tf.argmax(logits, axis=1), tf.shape(logits)[1], on_value=True, off_value=False)
    # For a certain prediction 1 - p would cancel to 0, but the power gamma of the exact value is far from 0.
    rest = tf.where(largest, tf.reduce_sum(tf.where(largest, tf.zeros_like(p), p), axis=1, keepdims=True), 1 - p)
    k = tf.minimum(top, tf.shape(logits)[1])
    indices = tf.math.top_k(p, k).indices
    p, rest = (tf.gather(values, indices, batch_dims=1) for values in (p, rest))
    return -tf.reduce_sum(tf.pow(p, gamma) * tf.pow(rest, gamma), axis=1)


def without_class(logits: tf.Tensor, left_out: tf.Tensor) -> tf.Tensor:
    """Logits with that of one class of each image replaced by the mean of its others.

    With one class less, scores would not be comparable: at a high temperature the largest softmax is about 1/K for any
    image.

    Args:
      logits: float [N, K], K >= 2.
      left_out: int [N], the class.

    Returns:
      float [N, K], of the type of the logits.
    """
    absent = is_class(left_out, tf.shape(logits)[1])
    others = tf.where(absent, tf.zeros_like(logits), logits)
    count = tf.cast(tf.shape(logits)[1] - 1, logits.dtype)
    return tf.where(absent, tf.reduce_sum(others, axis=1, keepdims=True) / count, logits)


def is_class(labels: tf.Tensor, classes: tf.Tensor | int) -> tf.Tensor:
    """Whether a column is the class of the image, bool [N, K]."""
    return tf.one_hot(labels, classes, on_value=True, off_value=False)
