"""Detectors on the input of the last dense layer; pure functions. High = in-distribution."""

import tensorflow as tf


def grad_norm(logits: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
    """L1 norm of the gradient of `KL(uniform || softmax(f))` with respect to the last layer's weights.

    GradNorm (Huang, Geng and Li 2021, https://arxiv.org/abs/2110.00218, at T = 1). That gradient is the outer product
    of the features h and `p - 1/K`, so the norm is `sum_k |h_k| * sum_j |p_j - 1/K|`: no backward pass is needed.

    Args:
      logits: float [N, K].
      features: float [N, F], the input of the last dense layer.

    Returns:
      float64 [N], >= 0.
    """
    p = tf.nn.softmax(tf.cast(logits, tf.float64))
    away_from_uniform = tf.reduce_sum(tf.abs(p - 1 / tf.cast(tf.shape(p)[1], tf.float64)), axis=1)
    return tf.reduce_sum(tf.abs(tf.cast(features, tf.float64)), axis=1) * away_from_uniform


def activation_map(logits: tf.Tensor, maps: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Class activation map of the predicted class c, `sum_k w[k, c] A[y, x, k]`.

    CAM (Zhou et al. 2016, https://arxiv.org/abs/1512.04150). Its mean over y and x is the class's logit without bias.

    Args:
      logits: float [N, K].
      maps: float [N, h, w, F], the input of global average pooling.
      kernel: float [F, K], weights of the dense layer after it.

    Returns:
      float64 [N, h, w].
    """
    weights = tf.gather(tf.transpose(kernel), tf.argmax(logits, axis=1))
    return tf.einsum("nhwf,nf->nhw", tf.cast(maps, tf.float64), tf.cast(weights, tf.float64))


def cam_var(logits: tf.Tensor, maps: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Variance over the pixels of the predicted class's activation map.

    From ODIN_keras_version (https://github.com/RRoundTable/ODIN_keras_version), whose "var" was the standard
    deviation: the same order, different values.

    Args:
      logits: float [N, K].
      maps: float [N, h, w, F].
      kernel: float [F, K].

    Returns:
      float64 [N], >= 0.
    """
    return tf.math.reduce_variance(activation_map(logits, maps, kernel), axis=(1, 2))


def cam_max(logits: tf.Tensor, maps: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Maximum over the pixels of the predicted class's activation map; source and arguments as in `cam_var`.

    Returns:
      float64 [N].
    """
    return tf.reduce_max(activation_map(logits, maps, kernel), axis=(1, 2))
