"""A classifier's forward pass in its fastest form: folded, and in mixed precision if requested.

A model that cannot be rewritten, or whose logits or gradients change when it is, runs as it was loaded.
"""

import logging
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from odin_beam.transforms.forward import folding
from odin_beam.transforms.forward.batch_parts import Work
from odin_beam.transforms.forward.float64_clone import float64_clone
from odin_beam.transforms.forward.frozen_graph import FrozenGraph, freeze, work
from odin_beam.transforms.forward.mixed_precision import has_bfloat16, round_inside
from odin_beam.transforms.model import device
from odin_beam.transforms.model.activations import Activations
from odin_beam.transforms.model.classifier import Classifier

# Largest difference between the folded and plain logits of two images, relative to the largest logit; rounding gives
# about 1e-6.
_LOGITS_TOLERANCE = 1e-4
# Largest difference of the pixels' gradient, relative to its length; ReLUs that switch by rounding give about 1e-3,
# or 3e-2 in a ResNet-50 with random weights.
_GRADIENT_TOLERANCE = 1e-1
# Largest difference between the logits in float32 and float64; beyond it a wrong folding could pass for rounding.
_MOST_ROUNDING = 1e-2
# Largest difference of logits in mixed precision, relative to the largest logit; about 1e-2 is usual.
_MIXED_TOLERANCE = 1e-1
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ForwardPass:
    """How the classifier is run.

    Attributes:
      activations: float32 pixels [N, H, W, C] in [0, 1] -> their activations; differentiable.
      work: of its layers; None if unknown.
      as_loaded: why the model runs as it was loaded; None if it does not.
    """

    activations: Callable[[tf.Tensor], Activations]
    work: Work | None
    as_loaded: str | None = None


def forward_pass(classifier: Classifier, precision: str = "float32") -> ForwardPass:
    """Computes what `classifier.activations` does, faster.

    In float32 its logits lie within 1e-4 of the classifier's, relative to the largest. Where rounding alone moves the
    classifier's further than that, they are at most twice as far from those in float64 as the classifier's are.

    Args:
      classifier: with its preprocessing.
      precision: one of `precisions.PRECISIONS`; `mixed` falls back to float32, with a warning in the log, if the
        hardware has no bfloat16 support, or if the model cannot be rewritten or changes too much.
    """
    names: list[str] = []

    def tensors(pixels: tf.Tensor) -> list[tf.Tensor]:
        present = {name: value for name, value in vars(classifier.activations(pixels)).items() if value is not None}
        names[:] = present
        return list(present.values())

    def as_loaded(reason: object) -> ForwardPass:
        text = str(reason).partition("\n")[0]
        if precision != "float32":
            _LOG.warning("the model runs as it was loaded, in float32: %s", text)
        return ForwardPass(classifier.activations, None, text)

    # Models can contain anything; those that cannot be rewritten still run as loaded, only slower.
    try:
        graph = freeze(tensors, classifier.input_shape)
        folding.fold(graph)
        folded = _activations(graph, names, classifier.input_shape)
        if not _agree(classifier, folded):
            return as_loaded("rewritten, it computes something else")
    except Exception as e:
        return as_loaded(e)
    if precision == "float32":
        return folded
    if not has_bfloat16():
        _LOG.warning("this machine has no bfloat16 support: using float32 instead of mixed")
        return folded
    try:
        round_inside(graph)
        if not device.on_gpu():
            folding.join_with_relus(graph, classifier.input_shape)
        mixed = _activations(graph, names, classifier.input_shape)
        exact, rounded = (_logits_and_gradient(form.activations, _probe(classifier))[0] for form in (folded, mixed))
    except Exception as e:
        _LOG.warning(
            "the model has layers that cannot be computed in bfloat16: using float32: %s", str(e).partition("\n")[0]
        )
        return folded
    if not _close(exact, rounded, _MIXED_TOLERANCE):
        _LOG.warning("the model gives different results in bfloat16: using float32")
        return folded
    return mixed


def _activations(graph: FrozenGraph, names: Sequence[str], shape: Sequence[int]) -> ForwardPass:
    function = graph.function(shape)
    return ForwardPass(lambda pixels: Activations(**dict(zip(names, function(pixels), strict=True))), work(function))


def _probe(classifier: Classifier) -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).random((2, *classifier.input_shape), np.float32))


def _agree(classifier: Classifier, folded: ForwardPass) -> bool:
    """Whether both give the same logits, and the same gradient of the pixels, on noise images.

    A deep network may amplify the rounding of float32 beyond the tolerances. Both are then compared with the same
    network in float64: the folded one may be twice as far from it as the one that was loaded.
    """
    pixels = _probe(classifier)
    loaded, other = (_logits_and_gradient(form.activations, pixels) for form in (classifier, folded))
    if loaded[1] is None or other[1] is None:
        return False
    tolerances = _LOGITS_TOLERANCE, _GRADIENT_TOLERANCE
    if all(map(operator.le, _distances(other, loaded), tolerances)):
        return True
    double = float64_clone(classifier)
    exact = double and _logits_and_gradient(double.activations, pixels)
    if not exact or exact[1] is None:
        return False
    rounding = _distances(loaded, exact)
    allowed = [max(tolerance, 2 * distance) for tolerance, distance in zip(tolerances, rounding, strict=True)]
    return rounding[0] <= _MOST_ROUNDING and all(map(operator.le, _distances(other, exact), allowed))


def _distances(result: tuple[np.ndarray, np.ndarray], reference: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """How far logits and gradient are from those of a reference, relative to its largest logit and its length."""
    (logits, gradient), (others, other_gradient) = result, reference
    lengths = np.linalg.norm(gradient - other_gradient), np.linalg.norm(other_gradient)
    return _relative(np.max(np.abs(logits - others)), np.max(np.abs(others))), _relative(*lengths)


def _relative(difference: float, size: float) -> float:
    """0 where there is no difference, whatever the size."""
    return 0.0 if difference == 0 else float(np.divide(difference, size))


def _close(logits: np.ndarray, others: np.ndarray, tolerance: float) -> bool:
    return np.allclose(logits, others, rtol=0, atol=tolerance * np.max(np.abs(logits)), equal_nan=True)


def _logits_and_gradient(
    activations: Callable[[tf.Tensor], Activations], pixels: tf.Tensor
) -> tuple[np.ndarray, np.ndarray | None]:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(pixels)
        logits = activations(pixels).logits
        seed = tf.one_hot(tf.argmax(logits, axis=1), tf.shape(logits)[1], dtype=logits.dtype)
    gradient = tape.gradient(logits, pixels, output_gradients=seed)
    return logits.numpy(), None if gradient is None else gradient.numpy()
