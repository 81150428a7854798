"""A classifier that lacks the class of the image before it: known images then stand in for those of unknown classes."""

from dataclasses import replace

import tensorflow as tf

from odin_beam.transforms.detectors.logits import without_class
from odin_beam.transforms.forward.forward_pass import ForwardPass
from odin_beam.transforms.model.activations import Activations


def leave_class_out(forward: ForwardPass) -> ForwardPass:
    """The forward pass without what it says, for each image, about the class of the largest logit.

    The logits lack it, and `left_out` names it to those detectors that compute logits anew, or look up class means or
    a bank. The classifier was still trained on that class, so its features are more orderly than those of truly
    unknown images.
    """

    def activations(pixels: tf.Tensor) -> Activations:
        known = forward.activations(pixels)
        left_out = tf.argmax(known.logits, axis=1, output_type=tf.int32)
        return replace(known, logits=without_class(known.logits, left_out), left_out=left_out)

    return replace(forward, activations=activations)
