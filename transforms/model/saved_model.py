"""A TensorFlow SavedModel, as Keras 2 saved its models and `model.export` still does, as a function of images.

A SavedModel is a program. Its operations are checked before it is loaded, and any that could touch files, run Python or
use a network are refused. What remains can compute, and spend memory and time, but nothing else.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import function_pb2
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


def forbidden_operations(description: saved_model_pb2.SavedModel) -> list[str]:
    """Names of the operations that a model does not need, or that are unknown, sorted.

    Keras' own saver is ignored if nothing calls it.

    If a model has an object graph, TensorFlow runs only functions, never the surrounding graph, which calls the saver;
    if it is in TensorFlow 1 format, TensorFlow runs that graph.
    """
    metas, operations = description.meta_graphs, set()
    of_objects = len(metas) == 1 and metas[0].HasField("object_graph_def")
    for meta in metas:
        functions = meta.graph_def.library.function
        names = {name for f in functions if op_def_registry.get(name := f.signature.name) is None}
        called = {name for function in functions for name in _called(function)}
        called |= set(meta.object_graph_def.concrete_functions)
        operations |= {node.op for node in meta.graph_def.node} - (_SAVER_OPS if of_objects else set())
        for function in functions:
            name = function.signature.name
            uncalled_saver = of_objects and _SAVER.match(name) and name not in called
            operations |= {node.op for node in function.node_def} - (_SAVER_OPS if uncalled_saver else set())
        # A function of the file may be called like an operation; its own operations are checked.
        operations -= names
    return sorted(op for op in operations if not _is_harmless(op))


def _is_harmless(operation: str) -> bool:
    known = op_def_registry.get(operation)
    if known is None or _FORBIDDEN.search(operation):
        return False
    return not known.is_stateful or _STATEFUL.fullmatch(operation) is not None


def _called(function: function_pb2.FunctionDef) -> Iterator[str]:
    """The names that a function may call other functions by; they include those of plain operations."""
    for node in function.node_def:
        yield node.op
        for value in node.attr.values():
            yield value.func.name
            yield from (called.name for called in value.list.func)
