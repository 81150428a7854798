"""ODIN: temperature scaling and input perturbation (Liang, Li and Srikant 2018, https://arxiv.org/abs/1706.02690).

Pure TensorFlow: takes a function from pixels to logits, returns scores. High = in-distribution.

* `S(x; T) = max_i softmax(f(x) / T)_i`
* `x~ = x - eps * sign(grad_x [-log S_yhat(x; T)])` with `yhat = argmax f(x)`, the predicted class; `sign(0) = 0`
* the ODIN score is `S(x~; T)`

`x` is in [0, 1] pixel units, and any normalisation the classifier needs is part of `f`. Nothing is rounded or clipped
after the perturbation.
"""

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from odin_beam.transforms.detectors.odin_settings import OdinSettings

LogitsFunction = Callable[[tf.Tensor], tf.Tensor]


class NoGradient(ValueError):
    """The logits are not a differentiable function of the pixels."""


def max_softmax(logits: tf.Tensor, temperature: float | tf.Tensor) -> tf.Tensor:
    """`S(x; T)`, the largest softmax probability of the logits divided by T.

    In float64, since at T = 1000 all scores lie within about 1e-3 of 1/K.

    Args:
      logits: float32 or float64 [N, K].
      temperature: T > 0; a tensor is a float64 scalar.

    Returns:
      float64 [N], in [1/K, 1].
    """
    gaps = _gaps_to_maximum(logits) / temperature
    return 1.0 / tf.reduce_sum(tf.exp(gaps), axis=1)


def score_logit(logits: tf.Tensor, temperature: float | tf.Tensor) -> tf.Tensor:
    """`T (log S(x; T) + log K)`: the score in a readable form, monotone in the score and of order 1 at any T.

    Args:
      logits: float32 or float64 [N, K].
      temperature: T > 0; a tensor is a float64 scalar.

    Returns:
      float64 [N], >= 0.
    """
    gaps = _gaps_to_maximum(logits) / temperature
    return -temperature * tf.math.log1p(tf.reduce_mean(tf.math.expm1(gaps), axis=1))


def _gaps_to_maximum(logits: tf.Tensor) -> tf.Tensor:
    logits = tf.cast(logits, tf.float64)
    return logits - tf.reduce_max(logits, axis=1, keepdims=True)


def backward_seed(logits: tf.Tensor, temperature: float) -> tf.Tensor:
    """The seed of the backward pass: a positive multiple, per image, of `d[-log S_yhat(x; T)] / d logits`.

    That derivative is `(softmax(f / T) - onehot(yhat)) / T`. Only the sign of the pixels' gradient is used, so each
    image's row may be divided by `(1 - p_yhat) / T`. This leaves the softmax over the *other* classes minus
    onehot(yhat). It avoids a difference of nearly equal numbers, which in float32 at T = 1 flips 8 % of the signs.

    Args:
      logits: float32 or float64 [N, K], K >= 2.
      temperature: T > 0.

    Returns:
      Tensor of the logits' shape and dtype; each row's entries sum to 0, the predicted one is -1.
    """
    scaled = tf.cast(logits, tf.float64) / temperature
    predicted = tf.one_hot(tf.argmax(logits, axis=1), tf.shape(logits)[1], on_value=True, off_value=False)
    others = tf.nn.softmax(tf.where(predicted, tf.constant(-math.inf, tf.float64), scaled))
    return tf.cast(others - tf.cast(predicted, tf.float64), logits.dtype)


def gradient_signs(
    logits_function: LogitsFunction, pixels: tf.Tensor, temperatures: Sequence[float]
) -> tuple[tf.Tensor, list[tf.Tensor]]:
    """The clean logits, and `sign(grad_x [-log S_yhat(x; T)])` for each temperature.

    One forward pass, shared by all temperatures, and one input-gradient per temperature; without temperatures, one
    forward pass. The gradient is taken with respect to the pixels only, never the weights.

    Args:
      logits_function: `f`, from pixels to logits [N, K].
      pixels: float32 [N, H, W, C] in [0, 1].
      temperatures: each > 0.

    Returns:
      (logits [N, K], for each temperature a tensor of the pixels' shape and dtype, of -1, 0 and 1).

    Raises:
      NoGradient: no gradient reaches the pixels; a cast to integers inside the model stops it.
    """
    if not temperatures:
        return logits_function(pixels), []
    with tf.GradientTape(persistent=len(temperatures) > 1, watch_accessed_variables=False) as tape:
        tape.watch(pixels)
        logits = logits_function(pixels)
    signs = []
    for temperature in temperatures:
        gradient = tape.gradient(logits, pixels, output_gradients=backward_seed(logits, temperature))
        if gradient is None:
            raise NoGradient("no gradient reaches the pixels, so ODIN cannot perturb them")
        signs.append(tf.sign(gradient))
    return logits, signs


def perturbed(pixels: tf.Tensor, sign: tf.Tensor, epsilon: float | tf.Tensor) -> tf.Tensor:
    """`x~`, the pixels moved by epsilon towards the predicted class, up to epsilon outside [0, 1].

    Args:
      pixels: float32 [N, H, W, C].
      sign: from `gradient_signs`, of the same shape.
      epsilon: >= 0, in [0, 1] pixel units.
    """
    return pixels - tf.cast(epsilon, pixels.dtype) * sign


def odin(logits_function: LogitsFunction, pixels: tf.Tensor, settings: OdinSettings) -> tuple[tf.Tensor, tf.Tensor]:
    """The clean logits, and the logits that ODIN computes its score from.

    Two forward passes and one input-gradient; with `epsilon = 0` one forward pass.

    Args:
      logits_function: `f`, from pixels to logits [N, K].
      pixels: float32 [N, H, W, C] in [0, 1].
      settings: temperature and epsilon.

    Returns:
      (clean logits, perturbed logits), each [N, K]; pass the latter to `max_softmax` and `score_logit`.
    """
    if settings.epsilon == 0:
        logits = logits_function(pixels)
        return logits, logits
    logits, (sign,) = gradient_signs(logits_function, pixels, [settings.temperature])
    return logits, logits_function(perturbed(pixels, sign, settings.epsilon))
