"""A TensorFlow SavedModel, as Keras 2 saved its models and `model.export` still does, as a function of images.

A SavedModel is a program. Its operations are checked before it is loaded, and any that could touch files, run Python or
use a network are refused. What remains can compute, and spend memory and time, but nothing else.
"""

import glob
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import attr_value_pb2, function_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

_SIGNATURE = "serving_default"
# An operation is allowed if TensorFlow knows it, it does not reach outside, and it is either stateless or one of these:
# variables, calls and branches, random numbers, tables and arrays in memory.
_STATEFUL = re.compile(
    r"Var(Handle|IsInitialized)Op|ReadVariableOp|DisableCopyOnRead|Assign(Add|Sub)?VariableOp|Variable(V2|Shape)?"
    r"|Resource(Gather|Scatter|SparseApply|Apply|StridedSliceAssign|CountUpTo)\w*|StatefulPartitionedCall|If|While|Case"
    r"|(Parameterized)?TruncatedNormal|Random(StandardNormal|Uniform|UniformInt|Shuffle|Gamma|PoissonV2|Crop)"
    r"|Stateful(Random|Standard|Truncated|Uniform)\w*|Rng(ReadAndSkip|Skip)|Multinomial|StatelessRandomGetAlg"
    r"|TensorArray\w*|(Anonymous)?(Mutable)?(Dense)?HashTable\w*|LookupTable\w+|InitializeTable(V2)?|CudnnRNN\w*"
    r"|Assert|CheckNumerics(V2)?|DestroyResourceOp|Empty|DeepCopy|GuaranteeConst"
)
_FORBIDDEN = re.compile(
    r"PyFunc|ReadFile|WriteFile|MatchingFiles|FileSystem|Reader|Dataset|FromTextFile|Print|Debug|Summary|Rpc|Remote"
    r"|^_?Send|^_?Recv|Save|Restore|MergeV2Checkpoints|LoadAndRemap|CustomCall|BigQuery|Bigtable|LoadLibrary"
    r"|^ImmutableConst$|^Abort$|RecordInput|Vocab|FixedUnigram|DecodeProto|EncodeProto|Collective|TPU|Iterator"
    r"|ImportEvent"
)
# Every file contains Keras' own functions for saving and restoring.
_SAVER = re.compile(r"__inference__traced_(save|restore)_\d+$")
_SAVER_OPS = {"SaveV2", "RestoreV2", "MergeV2Checkpoints"}


class SavedModelError(Exception):
    """The folder does not contain a usable SavedModel; the message says why."""


@dataclass(frozen=True, eq=False)
class SavedModel:
    """The serving function of a SavedModel.

    Attributes:
      loaded: the object TensorFlow loaded; its variables live as long as it does.
      input: name and `tf.TensorSpec` of its only input.
      outputs: name -> `tf.TensorSpec`.
    """

    loaded: Any
    input: tuple[str, tf.TensorSpec]
    outputs: dict[str, tf.TensorSpec]

    def call(self, inputs: tf.Tensor, output: str) -> tf.Tensor:
        """One of the outputs for a batch of inputs; differentiable."""
        name, spec = self.input
        return self.loaded.signatures[_SIGNATURE](**{name: tf.cast(inputs, spec.dtype)})[output]


def load_saved_model(folder: str) -> SavedModel:
    """Loads a SavedModel for inference.

    Args:
      folder: local, with `saved_model.pb`.

    Raises:
      SavedModelError: damaged, without a serving function of one tensor, or with refused operations.
    """
    try:
        with open(os.path.join(folder, "saved_model.pb"), "rb") as stream:
            description = saved_model_pb2.SavedModel.FromString(stream.read())
    except DecodeError as e:
        raise SavedModelError("its saved_model.pb is damaged") from e
    if forbidden := forbidden_operations(description):
        raise SavedModelError(f"it holds operations that are not run from a model file: {', '.join(forbidden)}")
    _check_stored(folder)
    try:
        loaded = tf.saved_model.load(folder)
    except Exception as e:
        text = " ".join(str(e).replace(folder, "the folder").split())[:300]
        raise SavedModelError(text or type(e).__name__) from e
    if _SIGNATURE not in loaded.signatures:
        names = ", ".join(loaded.signatures) or "none"
        raise SavedModelError(f"it has no signature {_SIGNATURE}; available signatures: {names}")
    function = loaded.signatures[_SIGNATURE]
    inputs = function.structured_input_signature[1]
    if len(inputs) != 1:
        raise SavedModelError(f"its signature {_SIGNATURE} has {len(inputs)} inputs, not one")
    return SavedModel(loaded, next(iter(inputs.items())), dict(sorted(function.structured_outputs.items())))


def _check_stored(folder: str) -> None:
    """Checks that the checkpoint declares no more than its files store: TensorFlow allocates first, then reads.

    Raises:
      SavedModelError: it does.
    """
    prefix = os.path.join(folder, "variables", "variables")
    if not os.path.exists(f"{prefix}.index"):
        return
    try:
        reader = tf.train.load_checkpoint(prefix)
        dtypes = reader.get_variable_to_dtype_map()
        declared = sum(
            math.prod(shape) * max(1, dtypes[name].size) for name, shape in reader.get_variable_to_shape_map().items()
        )
    except Exception as e:
        raise SavedModelError("its variables cannot be read") from e
    stored = sum(os.path.getsize(file) for file in glob.glob(f"{glob.escape(prefix)}.data-*"))
    if declared > stored:
        raise SavedModelError(f"its variables declare {declared:,} bytes and store {stored:,}")


def forbidden_operations(description: saved_model_pb2.SavedModel) -> list[str]:
    """Names of the operations that a model does not need, or that are unknown, sorted.

    Keras' own saver is ignored if nothing names it: no operation, attribute or gradient.

    If a model has an object graph, TensorFlow runs only functions, never the surrounding graph, which calls the saver;
    if it is in TensorFlow 1 format, TensorFlow runs that graph.
    """
    metas, operations = description.meta_graphs, set()
    of_objects = len(metas) == 1 and metas[0].HasField("object_graph_def")
    for meta in metas:
        functions = meta.graph_def.library.function
        names = {name for f in functions if op_def_registry.get(name := f.signature.name) is None}
        mentioned = {name for function in functions for name in _mentioned(function)}
        mentioned |= set(meta.object_graph_def.concrete_functions) | set(_gradients(meta.graph_def.library))
        operations |= {node.op for node in meta.graph_def.node} - (_SAVER_OPS if of_objects else set())
        for function in functions:
            name = function.signature.name
            unused_saver = of_objects and _SAVER.match(name) and name not in mentioned
            operations |= {node.op for node in function.node_def} - (_SAVER_OPS if unused_saver else set())
        # A function of the file may be called like an operation; its own operations are checked.
        operations -= names
    return sorted(op for op in operations if not _is_harmless(op))


def _is_harmless(operation: str) -> bool:
    known = op_def_registry.get(operation)
    if known is None or _FORBIDDEN.search(operation):
        return False
    return not known.is_stateful or _STATEFUL.fullmatch(operation) is not None


def _mentioned(function: function_pb2.FunctionDef) -> Iterator[str]:
    """The names that a function can reach other functions by, among others: of operations, and in any attribute.

    TensorFlow finds functions by attributes too, such as `_gradient_op_type` and `api_implements`.
    """
    yield from _in_attributes(function.attr.values())
    for arguments in function.arg_attr.values():
        yield from _in_attributes(arguments.attr.values())
    for node in function.node_def:
        yield node.op
        yield from _in_attributes(node.attr.values())


def _in_attributes(values: Iterable[attr_value_pb2.AttrValue]) -> Iterator[str]:
    for value in values:
        yield value.s.decode("utf-8", "replace")
        for text in value.list.s:
            yield text.decode("utf-8", "replace")
        for called in (value.func, *value.list.func):
            yield called.name
            if called.attr:
                yield from _in_attributes(called.attr.values())


def _gradients(library: function_pb2.FunctionDefLibrary) -> Iterator[str]:
    """The names of the functions that compute gradients, which scoring runs."""
    for gradient in library.gradient:
        yield gradient.gradient_func
    for gradient in library.registered_gradients:
        yield gradient.gradient_func
