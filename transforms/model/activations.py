"""The results of one forward pass of a classifier."""

from dataclasses import dataclass

import tensorflow as tf


@dataclass(frozen=True, eq=False)
class Activations:
    """The results of one forward pass.

    Attributes:
      logits: float32 [N, K].
      features: float32 [N, F], the input of the last dense layer; None if there is no such layer.
      maps: float32 [N, h, w, F], the input of the global average pooling right before it; None if there is none.
      kernel: float32 [F, K], the dense layer's weights; None if there is no such layer.
      bias: float32 [K], zeros for a layer without one; None if there is no such layer.
      left_out: int32 [N], the class that each image's logits say nothing about; see `leave_class_out`. None if they
        are complete.
    """

    logits: tf.Tensor
    features: tf.Tensor | None = None
    maps: tf.Tensor | None = None
    kernel: tf.Tensor | None = None
    bias: tf.Tensor | None = None
    left_out: tf.Tensor | None = None
