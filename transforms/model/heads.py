"""Finds a model's logits, whatever kind of head it has."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.model.keras_graph import origin, step_over
from odin_beam.transforms.model.last_layer import LastLayer, find_last_layer
from odin_beam.transforms.model.saved_model import SavedModel

_ACTIVATIONS = ("softmax", "log_softmax", "sigmoid")
_ONE_UNIT = (
    "the model's output is a single number; it must be one vector of 2 or more classes, (None, K), or one sigmoid unit "
    "(if it is the logit of two classes, add a sigmoid)"
)


@dataclass(frozen=True, eq=False)
class Head:
    """The end of a model.

    Attributes:
      model: up to this output.
      input: shape and dtype of the model's only input.
      outputs: preprocessed float32 [N, H, W, C] -> float32 [N, units], logits if they can be found.
      units: of the output.
      name: where the outputs were found; `unknown` if the model does not say what they are.
      last_layer: see `Classifier`.
    """

    model: keras.Model | SavedModel
    input: tuple[tuple[int | None, ...], str]
    outputs: Callable[[tf.Tensor], tf.Tensor]
    units: int
    name: str
    last_layer: LastLayer | None = None


def keras_head(model: keras.Model, output_name: str | None) -> Head:
    inputs = getattr(model, "inputs", None) or []
    if not inputs:
        raise ClassifierError("the model has no defined input: build it from keras.Input or as Sequential")
    if len(inputs) != 1:
        raise ClassifierError(
            f"the model's input is {len(inputs)} inputs; images need one of shape (None, H, W, 1 or 3)"
        )
    outputs = _named_outputs(model)
    output = outputs[_choose_output(list(outputs), output_name)]
    units = _units(tuple(output.shape))
    whole = keras.Model(model.inputs, output, name=model.name)
    logits_model, name = find_logits(whole)
    if units == 1 and not _is_sigmoid(name):
        raise ClassifierError(_ONE_UNIT)

    def outputs_of(batch: tf.Tensor) -> tf.Tensor:
        return tf.cast(logits_model(batch, training=False), tf.float32)

    return Head(
        whole, (tuple(inputs[0].shape), inputs[0].dtype), outputs_of, units, name, find_last_layer(logits_model)
    )


def _named_outputs(model: keras.Model) -> dict[str, keras.KerasTensor]:
    if isinstance(model, keras.Sequential):
        return {"output": model.outputs[0]}
    if isinstance(model.output, dict):
        # In a model that was saved and loaded, an output may be a list of one tensor.
        return {name: keras.tree.flatten(output)[0] for name, output in model.output.items()}
    names = list(model.output_names)
    if repeated := [name for name in names if names.count(name) > 1]:
        raise ClassifierError(f"the model has two outputs called {repeated[0]!r}: give them different names")
    return dict(zip(names, model.outputs, strict=True))


def _is_sigmoid(head: str) -> bool:
    return head.removeprefix("separate ").startswith("sigmoid ")


def saved_model_head(model: SavedModel, output_name: str | None) -> Head:
    output = _choose_output(list(model.outputs), output_name)
    spec = model.input[1]
    shape = tuple(spec.shape) if spec.shape.rank is not None else ()
    output_shape = model.outputs[output].shape
    units = _units(tuple(output_shape) if output_shape.rank is not None else ())

    def outputs_of(batch: tf.Tensor) -> tf.Tensor:
        return tf.cast(model.call(batch, output), tf.float32)

    return Head(model, (shape, spec.dtype.name), outputs_of, units, "unknown")


def _choose_output(names: list[str], wanted: str | None) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names:
        return wanted
    available = f"available outputs: {', '.join(names)}"
    if wanted is None:
        raise ClassifierError(f"the model has {len(names)} outputs: choose one with `output_name`; {available}")
    raise ClassifierError(f"the model has no output {wanted!r}; {available}")


def _units(shape: tuple[int | None, ...]) -> int:
    if len(shape) != 2 or shape[1] is None or shape[1] < 1:
        raise ClassifierError(f"the model's output is {shape}; it must be one vector of 2 or more classes, (None, K)")
    return shape[1]


def reading(outputs: np.ndarray, head: Head) -> tuple[str, Callable[[tf.Tensor], tf.Tensor]]:
    """What the outputs for some images are judged to be, and the function that turns them into logits.

    Raises:
      ClassifierError: they are not scores of mutually exclusive classes.
    """
    name = "linear" if head.name == "unknown" else head.name
    in_unit_interval = bool(np.all(outputs >= 0) and np.all(outputs <= 1))
    if head.units == 1:
        if _is_sigmoid(head.name):
            return name, lambda z: tf.concat([tf.zeros_like(z), z], axis=1)
        if not in_unit_interval:
            raise ClassifierError(_ONE_UNIT)
        return "probabilities", lambda p: _log_probabilities(tf.concat([1 - p, p], axis=1))
    if _are_probabilities(outputs):
        return "probabilities", _log_probabilities
    if _are_probabilities(np.exp(np.minimum(outputs, 1))):
        return "probabilities", tf.identity
    # The outputs of a plain dense layer are logits, whatever their range.
    if in_unit_interval and (head.name == "unknown" or (head.name == "linear" and head.last_layer is None)):
        raise ClassifierError(
            "the model's outputs lie between 0 and 1 and do not sum to 1, like those of one sigmoid per class: "
            "scores need classes that exclude each other"
        )
    return name, tf.identity


def find_logits(model: keras.Model) -> tuple[keras.Model, str]:
    """The same model ending in its logits, whatever kind of head it has, and where they were found.

    Applying ODIN's softmax to softmax outputs is the classic mistake. A softmax inside the last Dense layer is removed
    from a copy of that layer; a separate softmax of any name is removed from the model. So are log_softmax, the sigmoid
    of a single unit, and layers after them that do nothing in inference. A head inside a nested model is found too.

    Args:
      model: functional or sequential, with one output [N, K]; it is not changed.

    Returns:
      (model from inputs to [N, K], or to z [N, 1] of a sigmoid unit; where it was found, see `Classifier.head`).

    Raises:
      ClassifierError: the model ends in one sigmoid per class.
    """
    operation, before, nested_output = origin(step_over(model.outputs[0]))
    if nested_output is not None:
        inner, head = find_logits(keras.Model(operation.inputs, nested_output))
        return (model if head == "linear" else keras.Model(model.inputs, inner(before))), head
    activation = next((kind for kind in _ACTIVATIONS if _ends_in(operation, kind)), None)
    if activation == "sigmoid" and model.outputs[0].shape[1] > 1:
        raise ClassifierError(
            f"the model ends in one sigmoid per class ({operation.name}): any number of labels at once; "
            "scores need classes that exclude each other"
        )
    if activation is None:
        return model, "linear"
    kind = "sigmoid" if activation == "sigmoid" else "softmax"
    if not isinstance(operation, keras.layers.Dense):
        return keras.Model(model.inputs, before[0]), f"separate {kind} {operation.name}"
    # A copy, since the layer may be used in several places.
    config = {**operation.get_config(), "name": f"{operation.name}_without_{kind}", "activation": "linear"}
    copy = type(operation).from_config(config)
    logits = copy(before[0])
    copy.set_weights(operation.get_weights())
    return keras.Model(model.inputs, logits), f"{kind} in {operation.name}"


def _ends_in(operation: keras.Operation, activation: str) -> bool:
    """Whether this is a Dense or Activation layer with that activation, or a layer or operation of that name."""
    if isinstance(operation, keras.layers.Dense | keras.layers.Activation):
        return operation.activation is keras.activations.get(activation)
    # Along any axis but the last, it is not over the classes.
    along_classes = getattr(operation, "axis", -1) in (-1, 1)
    return along_classes and type(operation).__name__ == activation.title().replace("_", "")


def _are_probabilities(outputs: np.ndarray) -> bool:
    return bool(np.all(outputs >= 0) and np.all(outputs <= 1) and np.allclose(outputs.sum(axis=1), 1, atol=1e-3))


def _log_probabilities(probabilities: tf.Tensor) -> tf.Tensor:
    # The smallest normal float32 keeps the logarithm finite if a probability underflowed.
    return tf.math.log(tf.maximum(probabilities, np.finfo(np.float32).tiny))
