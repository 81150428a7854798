"""The other scores that ODIN's clean forward gives at no cost; pure functions. High = in-distribution."""

from collections.abc import Callable
from dataclasses import dataclass

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
    """Difference of the two largest softmax probabilities, `p_(1) - p_(2)`.

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
    gamma = 0.1 and M = 100; with fewer classes all of them count.

    Args:
      logits: float [N, K].
      gamma: in (0, 1).
      top: M, how many probabilities enter.

    Returns:
      float64 [N], <= 0.
    """
    logits = tf.cast(logits, tf.float64)
    p = tf.nn.softmax(logits)
    largest = tf.one_hot(tf.argmax(logits, axis=1), tf.shape(logits)[1], on_value=True, off_value=False)
    # Of a certain prediction 1 - p would cancel to 0, of which the power gamma is far from it.
    rest = tf.where(largest, tf.reduce_sum(tf.where(largest, tf.zeros_like(p), p), axis=1, keepdims=True), 1 - p)
    k = tf.minimum(top, tf.shape(logits)[1])
    indices = tf.math.top_k(p, k).indices
    p, rest = (tf.gather(values, indices, batch_dims=1) for values in (p, rest))
    return -tf.reduce_sum(tf.pow(p, gamma) * tf.pow(rest, gamma), axis=1)


def grad_norm(logits: tf.Tensor, features: tf.Tensor) -> tf.Tensor:
    """L1 norm of the gradient of `KL(uniform || softmax(f))` with respect to the last layer's weights.

    GradNorm (Huang, Geng and Li 2021, https://arxiv.org/abs/2110.00218, at T = 1). That gradient is the outer product
    of the features h and `p - 1/K`, so the norm is `sum_k |h_k| * sum_j |p_j - 1/K|`: no backward pass is needed.

    Args:
      logits: float [N, K].
      features: float [N, F], what the last dense layer takes.

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
      maps: float [N, h, w, F], what global average pooling takes.
      kernel: float [F, K], weights of the dense layer behind it.

    Returns:
      float64 [N, h, w].
    """
    weights = tf.gather(tf.transpose(kernel), tf.argmax(logits, axis=1))
    return tf.einsum("nhwf,nf->nhw", tf.cast(maps, tf.float64), tf.cast(weights, tf.float64))


def cam_var(logits: tf.Tensor, maps: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Variance over the pixels of the predicted class's activation map.

    After ODIN_keras_version (https://github.com/RRoundTable/ODIN_keras_version), whose "var" was the standard
    deviation: the same order, other numbers.

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


@dataclass(frozen=True, eq=False)
class Activations:
    """What one forward pass leaves behind.

    Attributes:
      logits: float32 [N, K].
      features: float32 [N, F], what the last dense layer takes; None where there is no such layer.
      maps: float32 [N, h, w, F], what global average pooling right before it takes; None where there is none.
      kernel: float32 [F, K], the dense layer's weights; None where there is no such layer.
    """

    logits: tf.Tensor
    features: tf.Tensor | None = None
    maps: tf.Tensor | None = None
    kernel: tf.Tensor | None = None


@dataclass(frozen=True)
class Detector:
    """A score of the clean forward.

    Attributes:
      score: the function.
      needs: the fields of `Activations` that it takes, in order.
      true_logits: whether a constant added to all logits of an image changes it, so that log-probabilities will not do.
    """

    score: Callable[..., tf.Tensor]
    needs: tuple[str, ...] = ("logits",)
    true_logits: bool = False

    def __call__(self, activations: Activations) -> tf.Tensor:
        return self.score(*(getattr(activations, name) for name in self.needs))


CLEAN_DETECTORS = {
    "msp": Detector(msp),
    "max_logit": Detector(max_logit, true_logits=True),
    "energy": Detector(energy, true_logits=True),
    "neg_entropy": Detector(neg_entropy),
    "margin": Detector(margin),
    "gen": Detector(gen),
    "grad_norm": Detector(grad_norm, ("logits", "features")),
    "cam_var": Detector(cam_var, ("logits", "maps", "kernel")),
    "cam_max": Detector(cam_max, ("logits", "maps", "kernel")),
}
