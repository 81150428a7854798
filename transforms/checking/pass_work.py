"""Counts what a forward pass takes, from the graph of a model of any kind."""

import math
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from odin_beam.transforms.checking.dataflow_cost import PassWork
from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.forward import folding
from odin_beam.transforms.forward.frozen_graph import CALLS, NotFreezable, freeze
from odin_beam.transforms.model.classifier import Classifier

# Operations that compute nothing for an image: weights, and the same numbers under another shape.
_NO_VALUES = {"Const", "Placeholder", "ReadVariableOp", "Identity", "Reshape", "Squeeze", "ExpandDims", "NoOp"}


class NotCountable(ClassifierError):
    """The work of a model's forward pass cannot be counted; the message says why."""


def pass_work(classifier: Classifier) -> PassWork:
    """What one forward pass of one image takes, in the form in which the model is run: with folded normalisations.

    Counted are convolutions, plain and depthwise, and matrix products; biases, normalisations and activations count
    as values alone, since they are done while their data pass, at best.

    Args:
      classifier: with its preprocessing.

    Raises:
      NotCountable: the graph has calls, branches or loops, or dimensions that depend on the image.
    """
    operations = values = 0
    for op in _graph(classifier).get_operations():
        if CALLS.search(op.type):
            raise NotCountable(f"the model's graph holds {op.type}")
        if op.type in _NO_VALUES:
            continue
        values += sum(_size(tensor) for tensor in op.outputs if tensor.dtype.is_floating)
        if op.type in _OPERATIONS:
            operations += 2 * _OPERATIONS[op.type](op)
    return PassWork(operations, values)


def _graph(classifier: Classifier) -> tf.Graph:
    """The graph for one image, so that all of its shapes are known."""
    shape = classifier.input_shape
    try:
        graph = freeze(lambda pixels: [classifier.logits(pixels)], shape)
        folding.fold(graph)
        return graph.function(shape, images=1).graph
    except NotFreezable:
        function = tf.function(classifier.logits, autograph=False)
        return function.get_concrete_function(tf.TensorSpec([1, *shape], tf.float32)).graph


def _size(tensor: tf.Tensor) -> int:
    return math.prod(_sides(tensor))


def _sides(tensor: tf.Tensor) -> list[int]:
    if not tensor.shape.is_fully_defined():
        raise NotCountable(f"the shape of {tensor.name} depends on the image")
    return tensor.shape.as_list()


def _convolution(op: tf.Operation) -> int:
    """Multiplications: of each output with all weights of its window; in groups these are fewer channels."""
    height, width, channels, _ = _sides(op.inputs[1])
    return _size(op.outputs[0]) * height * width * channels


def _depthwise(op: tf.Operation) -> int:
    """Multiplications: of each output with the window of one channel."""
    height, width = _sides(op.inputs[1])[:2]
    return _size(op.outputs[0]) * height * width


def _product(op: tf.Operation) -> int:
    """Multiplications of a `MatMul`."""
    return _size(op.outputs[0]) * _sides(op.inputs[0])[0 if op.get_attr("transpose_a") else 1]


def _batch_product(op: tf.Operation) -> int:
    """Multiplications of matrices in the last two dimensions."""
    return _size(op.outputs[0]) * _sides(op.inputs[0])[-2 if op.get_attr("adj_x") else -1]


def _einsum(op: tf.Operation) -> int:
    """Multiplications of an `Einsum` of two factors: one for each combination of the indices."""
    terms = op.get_attr("equation").decode().partition("->")[0].split(",")
    return einsum_multiplications(terms, [_sides(tensor) for tensor in op.inputs])


def einsum_multiplications(terms: Sequence[str], shapes: Sequence[Sequence[int]]) -> int:
    """The product of the sizes of all indices; 0 for a single factor, which is only summed or transposed.

    Args:
      terms: indices of each factor, such as `abc` or `a...c`.
      shapes: of the factors.
    """
    if len(terms) < 2:
        return 0
    sizes: dict[str | int, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        before, dots, after = term.partition("...")
        hidden = len(shape) - len(before) - len(after)
        # Dimensions under an ellipsis are aligned at their ends, and those of size 1 are repeated.
        names = [*before, *(range(-hidden, 0) if dots else ()), *after]
        for name, size in zip(names, shape, strict=True):
            sizes[name] = max(size, sizes.get(name, 1))
    return math.prod(sizes.values())


_OPERATIONS: Mapping[str, Callable[[tf.Operation], int]] = {
    "Conv2D": _convolution,
    "DepthwiseConv2dNative": _depthwise,
    "MatMul": _product,
    "BatchMatMulV2": _batch_product,
    "BatchMatMulV3": _batch_product,
    "Einsum": _einsum,
}
