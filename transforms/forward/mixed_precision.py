"""Mixed precision: bfloat16 after the first convolution of a forward pass.

bfloat16 has 8 bits of mantissa: on a pixel near 1 a step of epsilon = 0.0014 is rounded away. So the perturbed pixels,
their normalisation and the first convolutions stay float32, and so do the pooled features and the logits, which are
few numbers. In between, values passed from layer to layer are rounded; the hardware sums products in float32.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import node_def_pb2

from odin_beam.transforms.forward.frozen_graph import FrozenGraph

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative", "MatMul")
_INDIFFERENT = ("BiasAdd", "AddV2", "Mul", "Sub", "Relu", "Relu6", "Sigmoid", "ConcatV2", "MaxPool", "AvgPool", "Pad")
# The first GPU generation that computes in bfloat16: Ampere.
_COMPUTE_CAPABILITY = (8, 0)


def has_bfloat16() -> bool:
    """Whether the GPU, or else the processor, multiplies bfloat16 numbers natively."""
    if gpus := tf.config.list_physical_devices("GPU"):
        details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
        return all(detail.get("compute_capability", (0, 0)) >= _COMPUTE_CAPABILITY for detail in details)
    # Only Linux reports it in a file.
    processor = Path("/proc/cpuinfo")
    return processor.exists() and bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", processor.read_text()))


def round_inside(graph: FrozenGraph) -> None:
    """Rewrites a forward pass in place, with bfloat16 from after its first convolutions to before its last ones."""
    rounded = _inside(graph)
    narrow: dict[str, str] = {}
    for node in [graph.nodes[name] for name in rounded]:
        node.attr["T"].type = tf.bfloat16.as_datatype_enum
        for place, tensor in enumerate(node.input):
            if tensor not in narrow and graph.producer(tensor).name not in rounded:
                narrow[tensor] = _narrowed(graph, tensor)
            node.input[place] = narrow.get(tensor, tensor)
    wide: dict[str, str] = {}

    def widened(tensor: str) -> str:
        if tensor not in wide:
            wide[tensor] = graph.add("Cast", tensor, [tensor], SrcT=tf.bfloat16, DstT=tf.float32)
        return wide[tensor]

    for node in list(graph.nodes.values()):
        if node.name not in rounded and node.name not in narrow.values():
            node.input[:] = [widened(tensor) if tensor in rounded else tensor for tensor in node.input]
    graph.outputs = [widened(tensor) if tensor in rounded else tensor for tensor in graph.outputs]
    graph.prune()


def _inside(graph: FrozenGraph) -> set[str]:
    """Names of the nodes to compute in bfloat16."""
    order = graph.in_order()
    seen, behind, before = {graph.pixels}, set(), set()
    for node in order:
        sources = [source for source in _sources(graph, node) if source.name in seen]
        if sources:
            seen.add(node.name)
            if all(source.name in behind or source.op in _CONVOLUTIONS for source in sources):
                behind.add(node.name)
    for node in reversed(order):
        if node.op in _CONVOLUTIONS or node.name in before:
            before.update(source.name for source in _sources(graph, node))
    return {node.name for node in order if node.name in behind & before and _can_be_rounded(graph, node)}


def _sources(graph: FrozenGraph, node: node_def_pb2.NodeDef) -> Iterator[node_def_pb2.NodeDef]:
    return (graph.producer(tensor) for tensor in node.input)


def _can_be_rounded(graph: FrozenGraph, node: node_def_pb2.NodeDef) -> bool:
    if node.op in _CONVOLUTIONS:
        weights = graph.value(node.input[1])
        return weights is not None and weights.dtype == np.float32
    return node.op in _INDIFFERENT and node.attr["T"].type == tf.float32.as_datatype_enum


def _narrowed(graph: FrozenGraph, tensor: str) -> str:
    value = graph.value(tensor)
    if value is None:
        return graph.add("Cast", tensor.partition(":")[0], [tensor], SrcT=tf.float32, DstT=tf.bfloat16)
    # Axes and paddings are integers.
    return tensor if value.dtype != np.float32 else graph.add_constant(value.astype(tf.bfloat16.as_numpy_dtype), tensor)
