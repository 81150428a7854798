"""A forward pass as a graph whose weights are constants, so that it can be rewritten before it runs.

`folding` and `mixed_precision` rewrite it. The result is again a differentiable function.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.python.framework import op_def_registry
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from odin_beam.transforms.forward.batch_parts import Work

# A graph is one message of at most 2 GiB, of which several copies are made; with more weights the model is not frozen.
MOST_BYTES = 1 << 28

# Operations that run another function.
CALLS = re.compile("Call|If$|While$|Case$")


class NotFreezable(Exception):
    """The forward pass is not a plain graph of tensors and constants; the message says why."""


@dataclass
class FrozenGraph:
    """A graph: its nodes by name, its input and its outputs.

    Attributes:
      nodes: all nodes by name.
      pixels: name of the placeholder for float32 [N, H, W, C].
      outputs: tensors, as `name` or `name:1`.
    """

    nodes: dict[str, node_def_pb2.NodeDef]
    pixels: str
    outputs: list[str]
    _values: dict[str, np.ndarray] = field(default_factory=dict)

    def producer(self, tensor: str) -> node_def_pb2.NodeDef:
        """The node that produces a tensor."""
        return self.nodes[_node_name(tensor)]

    def value(self, tensor: str) -> np.ndarray | None:
        """The value of a constant; None for any other tensor."""
        node = self.producer(tensor)
        if node.op != "Const":
            return None
        if node.name not in self._values:
            self._values[node.name] = tf.make_ndarray(node.attr["value"].tensor)
        return self._values[node.name]

    def consumers(self, name: str) -> list[node_def_pb2.NodeDef | None]:
        """The nodes that use a node's output, once per input; None stands for an output of the graph."""
        consumers = [node for node in self.nodes.values() for tensor in node.input if _node_name(tensor) == name]
        return consumers + [None for tensor in self.outputs if _node_name(tensor) == name]

    def add(self, op: str, near: str, inputs: Iterable[str] = (), **types: tf.DType) -> str:
        """Adds a node whose name starts like `near`; `types` are its type attributes. Returns its name."""
        node = node_def_pb2.NodeDef(name=self._free_name(f"{near}/{op}"), op=op, input=inputs)
        for name, dtype in types.items():
            node.attr[name].type = dtype.as_datatype_enum
        self.nodes[node.name] = node
        return node.name

    def add_constant(self, value: np.ndarray, near: str) -> str:
        """Adds a constant; returns its name."""
        name = self.add("Const", near, dtype=tf.as_dtype(value.dtype))
        self.nodes[name].attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
        self._values[name] = value
        return name

    def replace(self, tensors: dict[str, str]) -> None:
        """Replaces each key by its value, or by that value's own replacement; nodes no longer needed are removed."""

        def last(tensor: str) -> str:
            while tensor in tensors:
                tensor = tensors[tensor]
            return tensor

        for node in self.nodes.values():
            node.input[:] = [last(tensor) for tensor in node.input]
        self.outputs = [last(tensor) for tensor in self.outputs]
        self.prune()

    def prune(self) -> None:
        """Removes the nodes that no output needs."""
        self.nodes = self._needed(self.outputs)

    def function(self, shape: Sequence[int], images: int | None = None) -> tf.types.experimental.ConcreteFunction:
        """float32 pixels [N, *shape] -> the outputs, in order; with `images`, for that N alone."""
        return _function(self.nodes, self.outputs, [tf.TensorSpec([images, *shape], tf.float32)], [self.pixels])

    def shapes(self, shape: Sequence[int]) -> dict[str, tf.TensorShape]:
        """Shape of each node's first output, for pixels [N, *shape]."""
        shapes = {op.name: op.outputs[0].shape for op in self.function(shape).graph.get_operations() if op.outputs}
        return shapes | {self.pixels: tf.TensorShape([None, *shape])}

    def compute_constants(self) -> None:
        """Replaces everything that depends only on constants by a constant, and removes identities."""
        plain = [node for node in self.nodes.values() if node.op == "Identity" and len(node.input) == 1]
        self.replace({node.name: node.input[0] for node in plain})
        constant: dict[str, bool] = {}
        for node in self.in_order():
            sources = [constant[_node_name(tensor)] for tensor in node.input]
            constant[node.name] = node.op == "Const" or (bool(sources) and all(sources))
        used = {tensor for node in self.nodes.values() if not constant[node.name] for tensor in node.input}
        computed = sorted(
            tensor
            for tensor in used.union(self.outputs)
            if constant[_node_name(tensor)] and self.producer(tensor).op != "Const"
        )
        if computed:
            values = _function(self._needed(computed), computed, [], [])()
            pairs = zip(computed, values, strict=True)
            self.replace({tensor: self.add_constant(value.numpy(), _node_name(tensor)) for tensor, value in pairs})

    def _needed(self, tensors: Iterable[str]) -> dict[str, node_def_pb2.NodeDef]:
        needed, open_names = {}, [_node_name(tensor) for tensor in tensors]
        while open_names:
            name = open_names.pop()
            if name not in needed:
                needed[name] = self.nodes[name]
                open_names += map(_node_name, self.nodes[name].input)
        return needed

    def _free_name(self, wanted: str) -> str:
        name, n = wanted, 0
        while name in self.nodes:
            n += 1
            name = f"{wanted}_{n}"
        return name

    def in_order(self) -> list[node_def_pb2.NodeDef]:
        """The nodes, each after the nodes it depends on."""
        order, seen, open_names = [], set(), [(name, False) for name in self.nodes]
        while open_names:
            name, ready = open_names.pop()
            if ready:
                order.append(self.nodes[name])
            elif name not in seen:
                seen.add(name)
                open_names.append((name, True))
                open_names += [(_node_name(tensor), False) for tensor in self.nodes[name].input]
        return order


def freeze(forward: Callable[[tf.Tensor], Sequence[tf.Tensor]], shape: Sequence[int]) -> FrozenGraph:
    """The graph of a forward pass.

    Args:
      forward: float32 pixels [N, *shape] -> tensors.
      shape: of one image.

    Raises:
      NotFreezable: the pass has state besides weights, branches, loops or calls, or too many weights.
    """
    traced = tf.function(forward, autograph=False).get_concrete_function(tf.TensorSpec([None, *shape], tf.float32))
    if sum(variable.shape.num_elements() * variable.dtype.size for variable in traced.variables) > MOST_BYTES:
        raise NotFreezable("it has too many weights for constants")
    try:
        frozen = convert_variables_to_constants_v2(traced, lower_control_flow=False)
    # The converter is given every kind of model. If it fails, TensorFlow runs the model as it is.
    except Exception as e:
        raise NotFreezable(f"{type(e).__name__}: {e}") from e
    nodes = {node.name: node for node in frozen.graph.as_graph_def().node}
    for node in nodes.values():
        known = op_def_registry.get(node.op)
        if node.op != "Placeholder" and (known is None or known.is_stateful or CALLS.search(node.op)):
            raise NotFreezable(f"it holds {node.op}")
        # Without state there is no order to preserve, and there are no variables to colocate with.
        node.input[:] = [tensor for tensor in node.input if not tensor.startswith("^")]
        node.attr.pop("_class", None)
    outputs = [tensor.name.removesuffix(":0") for tensor in frozen.outputs]
    graph = FrozenGraph(nodes, _node_name(frozen.inputs[0].name), outputs)
    graph.compute_constants()
    _leave_swish_to_its_operations(graph)
    if graph.pixels not in graph.nodes:
        raise NotFreezable("its outputs do not depend on the pixels")
    return graph


def _leave_swish_to_its_operations(graph: FrozenGraph) -> None:
    """Removes TensorFlow's custom gradient of swish; its operations have the same gradient.

    Swish is `x * sigmoid(beta * x)` (Ramachandran et al. 2017, https://arxiv.org/abs/1710.05941). TensorFlow's custom
    gradient, which saves memory, is tied to the graph in which it was created.
    """
    replaced = {}
    for node in graph.nodes.values():
        if node.op == "IdentityN" and _is_swish(graph, node.input[0]):
            replaced |= {f"{node.name}:{i}" if i else node.name: tensor for i, tensor in enumerate(node.input)}
    graph.replace(replaced)


def _is_swish(graph: FrozenGraph, tensor: str) -> bool:
    product = graph.producer(tensor)
    if product.op != "Mul":
        return False
    for x, gate in (product.input, product.input[::-1]):
        sigmoid = graph.producer(gate)
        if sigmoid.op == "Sigmoid":
            inside = graph.producer(sigmoid.input[0])
            return x == sigmoid.input[0] or (inside.op == "Mul" and x in inside.input)
    return False


def work(function: tf.types.experimental.ConcreteFunction) -> Work:
    """The amount of work in a frozen graph's function; an unknown dimension counts as 1."""
    values, weights = [], []
    for op in function.graph.get_operations():
        known = [tensor.shape for tensor in op.outputs if tensor.shape.rank is not None]
        sizes = [math.prod(side or 1 for side in shape) for shape in known]
        if op.type == "Const":
            weights += sizes
        elif op.type != "Placeholder":
            values += sizes
    return Work(sum(values), max(values, default=0), sum(weights))


def _function(
    nodes: dict[str, node_def_pb2.NodeDef], outputs: list[str], inputs: list[tf.TensorSpec], placeholders: list[str]
) -> tf.types.experimental.ConcreteFunction:
    graph = graph_pb2.GraphDef(node=[node for name, node in nodes.items() if name not in placeholders])
    graph.versions.producer = tf.version.GRAPH_DEF_VERSION
    fetches = [tensor if ":" in tensor else f"{tensor}:0" for tensor in outputs]

    def imported(*values: tf.Tensor) -> list[tf.Tensor]:
        return tf.graph_util.import_graph_def(graph, dict(zip(placeholders, values, strict=True)), fetches, name="")

    return tf.compat.v1.wrap_function(imported, inputs)


def _node_name(tensor: str) -> str:
    return tensor.partition(":")[0]
