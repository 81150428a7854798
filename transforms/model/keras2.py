"""Translates the description of a model that Keras 2 saved into one of Keras 3.

The layers have the same names and weights in both. What differs: settings that Keras 3 dropped, the names of modules,
and functions of TensorFlow called on tensors, which Keras 3 saves as its own operations.
"""

import inspect
from typing import Any

import keras

from odin_beam.transforms.model.allowed_parts import CLASSES

# Settings that Keras 3 does not have -> the values that change nothing in inference; None in the table: any value.
_DROPPED: dict[str, tuple | None] = {
    "batch_input_shape": None,
    "dynamic": (False,),
    "fused": None,
    "groups": (1,),
    "implementation": None,
    "input_length": None,
    "kernel_constraint": None,
    "kernel_initializer": None,
    "kernel_regularizer": None,
    "ragged": (False,),
    "renorm": (False,),
    "rng_type": None,
    "time_major": (False,),
    "virtual_batch_size": (None,),
}
_RENAMED = {("LeakyReLU", "alpha"): "negative_slope", ("InputLayer", "batch_input_shape"): "batch_shape"}
# A function of TensorFlow -> operation of Keras, and its settings.
_OPERATIONS: dict[str, tuple[str, str]] = {
    **{name: ("keras.src.ops.numpy", "Add") for name in ("__operators__.add", "math.add")},
    **{name: ("keras.src.ops.numpy", "Subtract") for name in ("__operators__.sub", "math.subtract")},
    **{name: ("keras.src.ops.numpy", "Multiply") for name in ("__operators__.mul", "math.multiply")},
    **{name: ("keras.src.ops.numpy", "TrueDivide") for name in ("__operators__.truediv", "math.truediv")},
    **{name: ("keras.src.ops.numpy", "Divide") for name in ("math.divide", "divide")},
    **{name: ("keras.src.ops.nn", "Relu") for name in ("nn.relu",)},
    **{name: ("keras.src.ops.nn", "Relu6") for name in ("nn.relu6",)},
    **{name: ("keras.src.ops.nn", "Silu") for name in ("nn.silu", "nn.swish")},
    **{name: ("keras.src.ops.nn", "Sigmoid") for name in ("math.sigmoid", "sigmoid")},
    **{name: ("keras.src.ops.nn", "Softmax") for name in ("nn.softmax",)},
}
_FUNCTIONAL_MODULES = ("keras.src.engine.functional", "keras.engine.functional", "tf_keras.src.engine.functional")


class Untranslatable(ValueError):
    """The model uses something of Keras 2 that Keras 3 does not have; the message says what, and the way around it."""


def translated(config: Any) -> Any:
    """The description in the terms of Keras 3.

    Args:
      config: parsed JSON, from a file of Keras 2.

    Raises:
      Untranslatable: Keras 3 has nothing that computes the same.
    """
    if isinstance(config, list):
        values = [translated(value) for value in config]
        return [_name(values[0]), *values[1:]] if _is_place(values) else values
    if not isinstance(config, dict):
        return config
    config = {key: translated(value) for key, value in config.items()}
    name = config.get("class_name")
    if name == "TFOpLambda":
        return _operation(config)
    if name == "SlicingOpLambda":
        raise Untranslatable(_message(f"its layer {config.get('name')} cuts a slice out of a tensor"))
    if config.get("module") in _FUNCTIONAL_MODULES:
        config["module"] = "keras.src.models.functional"
    if "name" in config:
        config["name"] = _name(config["name"])
    for ends in ("input_layers", "output_layers"):
        # A list of one would make the model's output a list, which the next layer would not take.
        if isinstance(config.get(ends), list) and len(config[ends]) == 1:
            config[ends] = config[ends][0]
    if isinstance(name, str) and name in CLASSES["keras.layers"] and isinstance(config.get("config"), dict):
        config["config"] = _settings(getattr(keras.layers, name), name, config["config"])
    return config


def _is_place(value: Any) -> bool:
    """Whether this names an output of a layer: [layer, node, output, maybe further arguments]."""
    return isinstance(value, list) and len(value) in (3, 4) and isinstance(value[0], str) and type(value[1]) is int


def _name(name: Any) -> Any:
    """A layer's name without the slashes that Keras 3 does not allow; weights are found by their order."""
    return name.replace("/", "_") if isinstance(name, str) else name


def _settings(layer: type, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A layer's settings that Keras 3 knows; those that change nothing are dropped."""
    known, kept = _parameters(layer), {}
    for key, value in settings.items():
        key = _RENAMED.get((name, key), key)
        if key == "axis" and isinstance(value, list) and len(value) == 1 and name == "BatchNormalization":
            value = value[0]
        if key in known:
            kept[key] = value
        elif key not in _DROPPED or (_DROPPED[key] is not None and value not in _DROPPED[key]):
            label = settings.get("name", name)
            raise Untranslatable(_message(f"its layer {label} has {key} {value!r}, which Keras 3 does not have"))
    return kept


def _parameters(layer: type) -> set[str]:
    names = set()
    for base in layer.__mro__:
        if issubclass(base, keras.layers.Layer):
            names.update(inspect.signature(base.__init__).parameters)
    return names | {"name", "trainable", "dtype", "activity_regularizer", "autocast"}


def _operation(layer: dict[str, Any]) -> dict[str, Any]:
    """A function of TensorFlow as the operation of Keras that computes the same."""
    function = layer["config"].get("function")
    if function not in _OPERATIONS:
        raise Untranslatable(_message(f"its layer {layer.get('name')} is TensorFlow's function {function}"))
    module, name = _OPERATIONS[function]
    return {
        "module": module,
        "class_name": name,
        "config": {"name": layer["name"]},
        "registered_name": name,
        "name": layer["name"],
        "inbound_nodes": [_call(node, layer["name"]) for node in layer["inbound_nodes"]],
    }


def _call(node: list, name: str) -> dict[str, Any]:
    """A call with tensors and numbers as arguments: [layer, node, output, {name of argument: value}]."""
    first, further = node[:3], dict(node[3]) if len(node) > 3 else {}
    further.pop("name", None)
    arguments = [first[2] if first[0] == "_CONSTANT_VALUE" else _tensor(first), *map(_argument, further.values())]
    if any(isinstance(argument, str) for argument in arguments):
        raise Untranslatable(_message(f"its layer {name} has text as an argument"))
    return {"args": arguments, "kwargs": {}}


def _argument(value: Any) -> Any:
    return _tensor(value) if _is_place(value) else value


def _tensor(place: list) -> dict[str, Any]:
    # The shape is that of the layer's output once Keras builds it.
    return {"class_name": "__keras_tensor__", "config": {"shape": [None], "dtype": "float32", "keras_history": place}}


def _message(what: str) -> str:
    return (
        f"{what}: load it in Keras 2 (the package tf_keras) and save it as a SavedModel by model.export(folder), "
        "which gives the detectors of logits or probabilities, but not those of features and maps"
    )
