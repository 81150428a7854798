"""What one forward pass of a classifier leaves behind."""

from dataclasses import dataclass

import tensorflow as tf


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
