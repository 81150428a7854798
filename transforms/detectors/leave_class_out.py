"""A classifier that lacks the class of the image before it: known images then stand in for those of unknown classes."""

from dataclasses import replace

import tensorflow as tf

from odin_beam.transforms.forward.forward_pass import ForwardPass
from odin_beam.transforms.model.activations import Activations


def leave_class_out(forward: ForwardPass) -> ForwardPass:
    """The forward pass without what it says, for each image, about the class of the largest logit.

    The classifier was still trained on that class, so its features are more orderly than those of truly unknown images.
    """

    def activations(pixels: tf.Tensor) -> Activations:
        known = forward.activations(pixels)
        return replace(known, logits=without_largest(known.logits))

    return replace(forward, activations=activations)


def without_largest(logits: tf.Tensor) -> tf.Tensor:
    """Logits with the largest of each image replaced by the mean of its others.

    With one class less, scores would not be comparable: at a high temperature the largest softmax is about 1/K for any
    image.

    Args:
      logits: float [N, K], K >= 2.
    """
    largest = tf.one_hot(tf.argmax(logits, axis=1), tf.shape(logits)[1], on_value=True, off_value=False)
    others = tf.where(largest, tf.zeros_like(logits), logits)
    count = tf.cast(tf.shape(logits)[1] - 1, logits.dtype)
    return tf.where(largest, tf.reduce_sum(others, axis=1, keepdims=True) / count, logits)
