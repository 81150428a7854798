"""Folds normalisation layers into the convolutions around them: the same logits in fewer passes over memory.

In inference a batch normalisation (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167) multiplies each channel
by a constant and adds another. With all weights known,

* after a convolution the factor goes into its filters: `s (w * x + a) + b = (s w) * x + (s a + b)`;
* before a ReLU whose output goes only to convolutions, a positive factor goes into their filters:
  `w * relu(s x + b) = (w s) * relu(x + b / s)`.

What remains is one addition per channel, which TensorFlow fuses with a preceding convolution; the factor also
disappears from the backward pass to the pixels. Dense layers count as convolutions here. `join_with_relus` makes the
sums that do not follow a convolution one operation too.
"""

import functools
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, node_def_pb2

from odin_beam.transforms.forward.frozen_graph import FrozenGraph

_ADDITIONS = ("BiasAdd", "AddV2")
_TYPES = (tf.float32.as_datatype_enum, tf.bfloat16.as_datatype_enum)
# Name under which the gradient is registered with TensorFlow.
_TIMES_ONE = "OdinBeamTimesOne"
# Operations that commute with a positive factor per channel.
_INDIFFERENT = ("MaxPool", "AvgPool", "Pad")


def fold(graph: FrozenGraph) -> None:
    """Folds normalisations next to convolutions and dense layers into these; rewrites the graph in place."""
    for rewrite in (_split_normalisation, _scale_filters_before, _join_shifts, _scale_filters_after):
        for node in list(graph.nodes.values()):
            rewrite(graph, node)


def join_with_relus(graph: FrozenGraph, shape: Sequence[int]) -> None:
    """Joins what `fold` left of a normalisation with the ReLU after it; rewrites the graph in place.

    The two become a depthwise convolution of one pixel, which oneDNN fuses with its bias and the ReLU. In bfloat16 that
    takes a fifth of the time of TensorFlow's separate product, sum and ReLU; in float32 it gains nothing.

    Args:
      graph: folded; TensorFlow already fuses a convolution with the sum and ReLU after it.
      shape: (H, W, C) of an image.
    """
    shapes = graph.shapes(shape)
    for node in list(graph.nodes.values()):
        if node.op == "Relu":
            _join_with_relu(graph, node, shapes)
    graph.prune()


def _join_with_relu(graph: FrozenGraph, node: node_def_pb2.NodeDef, shapes: dict[str, tf.TensorShape]) -> None:
    added = graph.producer(node.input[0])
    source, shift = _tensor_and_channels(graph, added, _ADDITIONS)
    if shift is None or len(graph.consumers(added.name)) > 1 or _filters(graph, graph.producer(source)) is not None:
        return
    inner, factor = _tensor_and_channels(graph, graph.producer(source), ("Mul",))
    if factor is None or len(graph.consumers(source)) > 1:
        inner, factor = source, np.ones(1)
    map_shape = shapes.get(inner, tf.TensorShape(None))
    if map_shape.rank != 4 or not map_shape[-1]:
        return
    channels = map_shape[-1]
    filters = _constant(graph, np.broadcast_to(factor, channels).reshape(1, 1, channels, 1), added)
    dtype = tf.as_dtype(_attribute(added, "T").type)
    product = graph.nodes[graph.add("DepthwiseConv2dNative", added.name, [inner, filters], T=dtype)]
    product.attr["padding"].s = b"VALID"
    product.attr["strides"].list.i[:] = [1, 1, 1, 1]
    if np.all(factor == 1):
        product.attr["_gradient_op_type"].s = _gradient_of_times_one().encode()
    _make_bias(graph, added, product.name, np.broadcast_to(shift, channels))


@functools.cache
def _gradient_of_times_one() -> str:
    """The gradient of a depthwise convolution that multiplies by 1: it passes through without any operation.

    Its name in TensorFlow's registry, where the first call enters it.
    """

    @tf.RegisterGradient(_TIMES_ONE)
    def unchanged(_: tf.Operation, gradient: tf.Tensor) -> tuple[tf.Tensor, None]:
        return gradient, None

    return _TIMES_ONE


def _split_normalisation(graph: FrozenGraph, node: node_def_pb2.NodeDef) -> None:
    """Splits a fused normalisation into a product and a sum."""
    if node.op != "FusedBatchNormV3" or _attribute(node, "is_training").b or not _channels_last(node):
        return
    weights = [graph.value(tensor) for tensor in node.input[1:5]]
    if any(value is None for value in weights):
        return
    scale, shift, mean, variance = (value.astype(np.float64) for value in weights)
    factor = scale / np.sqrt(variance + _attribute(node, "epsilon").f)
    product = graph.add("Mul", node.name, [node.input[0], _constant(graph, factor, node)], T=tf.float32)
    added = graph.add("AddV2", node.name, [product, _constant(graph, shift - mean * factor, node)], T=tf.float32)
    graph.replace({node.name: added})


def _scale_filters_before(graph: FrozenGraph, node: node_def_pb2.NodeDef) -> None:
    """`s (w * x + a) = (s w) * x + s a`, if the unscaled tensor is not used anywhere else."""
    before, factor = _tensor_and_channels(graph, node, ("Mul",))
    if factor is None or len(graph.consumers(before)) > 1:
        return
    added = graph.producer(before)
    source, shift = _tensor_and_channels(graph, added, _ADDITIONS)
    if shift is not None and len(graph.consumers(source)) > 1:
        return
    convolution = added if shift is None else graph.producer(source)
    filters = _filters(graph, convolution)
    if filters is None:
        return
    by_output = filters.shape[2:] if convolution.op == "DepthwiseConv2dNative" else filters.shape[-1:]
    channels = int(np.prod(by_output))
    if factor.size not in (1, channels):
        return
    factor = np.broadcast_to(factor, channels)
    convolution.input[1] = _constant(graph, filters * factor.reshape(by_output), convolution)
    if shift is not None:
        _make_bias(graph, added, source, factor * shift)
    graph.replace({node.name: before})


def _join_shifts(graph: FrozenGraph, node: node_def_pb2.NodeDef) -> None:
    """`(w * x + a) + b = w * x + (a + b)`."""
    source, shift = _tensor_and_channels(graph, node, _ADDITIONS)
    if shift is None:
        return
    inner, first = _tensor_and_channels(graph, graph.producer(source), _ADDITIONS)
    if first is not None and len(graph.consumers(source)) == 1:
        source, shift = inner, first + shift
    filters = _filters(graph, graph.producer(source))
    if filters is not None:
        depthwise = graph.producer(source).op == "DepthwiseConv2dNative"
        channels = int(np.prod(filters.shape[2:])) if depthwise else filters.shape[-1]
        _make_bias(graph, node, source, np.broadcast_to(shift, channels))


def _scale_filters_after(graph: FrozenGraph, node: node_def_pb2.NodeDef) -> None:
    """`w * relu(s x + b) = (w s) * relu(x + b / s)`, for s > 0 and if the ReLU's output goes only to convolutions."""
    if node.op != "Relu":
        return
    added = graph.producer(node.input[0])
    product, shift = _tensor_and_channels(graph, added, _ADDITIONS)
    if shift is None or len(graph.consumers(added.name)) > 1 or len(graph.consumers(product)) > 1:
        return
    source, factor = _tensor_and_channels(graph, graph.producer(product), ("Mul",))
    if factor is None or not np.all(factor > 0):
        return
    convolutions = list(_takers(graph, node))
    filters = [_filters(graph, taker) for taker in convolutions]
    input_axes = [0 if taker is not None and taker.op == "MatMul" else 2 for taker in convolutions]
    sizes = {None if value is None else value.shape[axis] for value, axis in zip(filters, input_axes, strict=True)}
    if len(sizes) != 1 or None in sizes:
        return
    channels = sizes.pop()
    if factor.size not in (1, channels) or shift.size not in (1, channels):
        return
    factor = np.broadcast_to(factor, channels)
    _make_bias(graph, added, source, shift / factor)
    for taker, value in zip(convolutions, filters, strict=True):
        taker.input[1] = _constant(graph, value * factor[:, None], taker)
    graph.prune()


def _takers(graph: FrozenGraph, node: node_def_pb2.NodeDef) -> Iterator[node_def_pb2.NodeDef | None]:
    """The consumers of a node's output, looking past pooling and padding; None stands for an output of the graph."""
    for taker in graph.consumers(node.name):
        if taker is not None and taker.op in _INDIFFERENT and _channels_last(taker):
            yield from _takers(graph, taker)
        else:
            # As filters the output could not be scaled.
            yield taker if taker is not None and graph.producer(taker.input[0]).name == node.name else None


def _tensor_and_channels(
    graph: FrozenGraph, node: node_def_pb2.NodeDef, operations: tuple[str, ...]
) -> tuple[str, np.ndarray | None]:
    """The operand of a sum or product whose other operand is constant per channel, and that constant, float64 [C] or
    [1]; (node's name, None) for any other node.
    """
    if node.op in operations and _channels_last(node) and _attribute(node, "T").type in _TYPES:
        for tensor, other in (tuple(node.input[:2]), tuple(node.input[1::-1])):
            value = graph.value(other)
            if value is not None and value.size == (value.shape or (1,))[-1]:
                return tensor, value.astype(np.float64).ravel()
    return node.name, None


def _filters(graph: FrozenGraph, node: node_def_pb2.NodeDef | None) -> np.ndarray | None:
    """float64 filters [kh, kw, in, out] or matrix [in, out] of a convolution or dense layer; None for other nodes."""
    if node is None or node.op not in ("Conv2D", "DepthwiseConv2dNative", "MatMul") or not _channels_last(node):
        return None
    if _attribute(node, "transpose_a").b or _attribute(node, "transpose_b").b:
        return None
    value = graph.value(node.input[1])
    if value is None or tf.as_dtype(value.dtype).as_datatype_enum not in _TYPES:
        return None
    return value.astype(np.float64)


def _channels_last(node: node_def_pb2.NodeDef) -> bool:
    return _attribute(node, "data_format").s in (b"", b"NHWC")


def _attribute(node: node_def_pb2.NodeDef, name: str) -> attr_value_pb2.AttrValue:
    # Indexing the map would create the attribute.
    return node.attr[name] if name in node.attr else attr_value_pb2.AttrValue()


def _make_bias(graph: FrozenGraph, node: node_def_pb2.NodeDef, source: str, shift: np.ndarray) -> None:
    """Turns a sum into the operation that TensorFlow fuses with a convolution."""
    node.op, node.input[:] = "BiasAdd", [source, _constant(graph, shift, node)]


def _constant(graph: FrozenGraph, value: np.ndarray, node: node_def_pb2.NodeDef) -> str:
    return graph.add_constant(value.astype(tf.as_dtype(_attribute(node, "T").type).as_numpy_dtype), node.name)
