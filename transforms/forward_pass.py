"""A classifier's forward pass in the form in which it runs fastest: folded, and in mixed precision where that is asked.

A model that cannot be rewritten, or whose logits or gradients change when it is, runs as it was loaded.
"""

import logging
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from transforms import folding
from transforms.classifier import Classifier
from transforms.detectors import Activations
from transforms.frozen_graph import NotFreezable, freeze

ForwardPass = Callable[[tf.Tensor], Activations]

# Of two images that folded and plain logits, relative to the largest, may differ by; it is rounding, some 1e-6.
_LOGITS_TOLERANCE = 1e-4
# Of the length of the pixels' gradient; a ReLU that rounding switches makes some 1e-3.
_GRADIENT_TOLERANCE = 3e-2

_LOG = logging.getLogger(__name__)


def forward_pass(classifier: Classifier) -> ForwardPass:
    """float32 pixels [N, H, W, C] in [0, 1] -> what `classifier.activations` gives of them, sooner.

    The logits' relative difference is below 1e-4, and gradients flow through.
    """
    names: list[str] = []

    def tensors(pixels: tf.Tensor) -> list[tf.Tensor]:
        found = {name: value for name, value in vars(classifier.activations(pixels)).items() if value is not None}
        names[:] = found
        return list(found.values())

    try:
        graph = freeze(tensors, classifier.input_shape)
    except NotFreezable as e:
        _LOG.info("the model runs as it was loaded: %s", e)
        return classifier.activations
    folding.fold(graph)
    function = graph.function(classifier.input_shape)

    def folded(pixels: tf.Tensor) -> Activations:
        return Activations(**dict(zip(names, function(pixels), strict=True)))

    if not _agree(classifier, folded):
        _LOG.info("the model runs as it was loaded: folded, it computes something else")
        return classifier.activations
    return folded


def _agree(classifier: Classifier, folded: ForwardPass) -> bool:
    """Whether both give the same logits, and the same gradient of the pixels, for images of noise."""
    pixels = tf.constant(np.random.default_rng(0).uniform(size=(2, *classifier.input_shape)), tf.float32)
    (logits, gradient), (folded_logits, folded_gradient) = (
        _logits_and_gradient(forward, pixels) for forward in (classifier.activations, folded)
    )
    scale = np.max(np.abs(logits))
    if not np.allclose(logits, folded_logits, rtol=0, atol=_LOGITS_TOLERANCE * scale, equal_nan=True):
        return False
    if gradient is None or folded_gradient is None:
        return False
    return bool(np.linalg.norm(gradient - folded_gradient) <= _GRADIENT_TOLERANCE * np.linalg.norm(gradient))


def _logits_and_gradient(forward: ForwardPass, pixels: tf.Tensor) -> tuple[np.ndarray, np.ndarray | None]:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(pixels)
        logits = forward(pixels).logits
        seed = tf.one_hot(tf.argmax(logits, axis=1), tf.shape(logits)[1])
    gradient = tape.gradient(logits, pixels, output_gradients=seed)
    return logits.numpy(), None if gradient is None else gradient.numpy()
