"""Holds the description of a Keras model to an allow-list before Keras builds anything from it.

Keras' safe mode refuses code inside a file, but not the names of functions and classes of its own: a file can have it
call `keras.utils.get_file`, or load a SavedModel as a layer, with arguments of the file's choice. Here every object
that a description names must be in `allowed_parts`, and the arguments of a call are tensors, numbers, slices and small
arrays. This module imports no TensorFlow.
"""

import json
from collections.abc import Iterator
from typing import Any

from odin_beam.transforms import limits
from odin_beam.transforms.model.allowed_parts import ACTIVATION_MODULES, ACTIVATIONS, CLASSES, LEGACY_CLASSES

_TENSOR = "__keras_tensor__"
_ARRAYS = ("__tensor__", "__numpy__")
# Containers and indices, in the old and the new spelling; their values are checked like all others.
_PLAIN = ("__ellipsis__", "__slice__", "__tuple__", "TensorShape")
_DTYPE_NAMES = """
    bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 bfloat16 float16 float32 float64 complex64
"""
_DTYPES = frozenset(_DTYPE_NAMES.split())
# Integers that are not sizes.
_ANY_INTEGER = ("seed", "shared_object_id")


class RefusedConfig(ValueError):
    """A model's description names or contains something that is not built from a file; the message says what."""


def read_config(text: bytes | str) -> dict[str, Any]:
    """A model's description from its JSON.

    Raises:
      RefusedConfig: too long, nested too deeply, or not the JSON of an object.
    """
    if len(text) > limits.MAX_CONFIG_BYTES:
        raise RefusedConfig(
            f"its description of the layers has {len(text):,} bytes; the limit is {limits.MAX_CONFIG_BYTES:,}"
        )
    try:
        config = json.loads(text)
    except RecursionError as e:
        raise RefusedConfig("its description of the layers is nested too deeply") from e
    except ValueError as e:
        raise RefusedConfig(f"its description of the layers is not JSON: {e}") from e
    if not isinstance(config, dict):
        raise RefusedConfig("its description of the layers is not a JSON object")
    if _depth(config) > limits.MAX_CONFIG_DEPTH:
        raise RefusedConfig("its description of the layers is nested too deeply")
    return config


def _depth(config: Any) -> int:
    level, depth = [config], 0
    while level:
        depth += 1
        inner = (value.values() if isinstance(value, dict) else value for value in level)
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
    return depth


def without_training(config: Any) -> Any:
    """The description without how the model and those inside it were trained: losses, optimizers and metrics."""
    if isinstance(config, dict):
        kept = (item for item in config.items() if item[0] != "compile_config")
        return {key: without_training(value) for key, value in kept}
    return [without_training(value) for value in config] if isinstance(config, list) else config


def check_config(config: dict[str, Any], functions: frozenset[str] = frozenset()) -> None:
    """Checks that building a model from its description only ever creates layers and calls them on tensors.

    Args:
      config: parsed JSON of `config.json` in a `.keras` file, or of `model_config` in an `.h5` file.
      functions: names that the caller resolves itself, whatever their module.

    Raises:
      RefusedConfig: it does more.
    """
    calls = 0
    for part in _parts(config):
        if isinstance(part, dict):
            if "class_name" in part:
                _check_part(part, functions)
            nodes = part.get("inbound_nodes") or []
            if not isinstance(nodes, list):
                raise RefusedConfig(f"the calls of its layer {_short(part.get('name'))} are malformed")
            calls += len(nodes)
            if calls > limits.MAX_LAYER_CALLS:
                raise RefusedConfig(f"it calls its layers more than {limits.MAX_LAYER_CALLS:,} times")
            for node in nodes:
                _check_call(node, str(part.get("name")))
        elif isinstance(part, int) and abs(part) > limits.MAX_CONFIG_INTEGER:
            raise RefusedConfig(f"it contains the number {_short(part)}, too large for a size")


def _parts(config: Any) -> Iterator[Any]:
    """Every value inside a description, but for integers that are not sizes and the numbers of arrays."""
    stack = [config]
    while stack:
        value = stack.pop()
        yield value
        if isinstance(value, list):
            stack.extend(value)
        elif isinstance(value, dict) and value.get("class_name") not in _ARRAYS:
            for key, child in value.items():
                if key == "inbound_nodes":
                    # Arguments are checked with the call; only objects among them are looked at again.
                    stack.extend(_objects(child))
                elif key not in _ANY_INTEGER or not isinstance(child, int):
                    stack.append(child)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """The outermost objects with a `class_name` inside a value."""
    stack = [value]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            if "class_name" in value:
                yield value
            else:
                stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)


def _check_part(part: dict[str, Any], functions: frozenset[str]) -> None:
    """Checks one object: a layer, an operation, or a part of one."""
    name, module, registered = part["class_name"], part.get("module"), part.get("registered_name")
    if not isinstance(name, str) or not isinstance(module, str | None) or not isinstance(registered, str | None):
        raise RefusedConfig(f"it contains an object without a proper name: {_short(part)}")
    if name == _TENSOR or name in _PLAIN:
        return
    if name in _ARRAYS:
        _check_array(part.get("config"))
    elif name == "function":
        _check_function(part, functions)
    elif registered not in (None, name):
        raise RefusedConfig(f"its layer {_short(registered)} is not one of Keras' own")
    elif module is None and name in LEGACY_CLASSES:
        return
    elif name not in CLASSES.get(module, ()):
        raise RefusedConfig(_refusal(name, module))


def _refusal(name: str, module: str | None) -> str:
    if module is not None and (module == "keras" or module.startswith("keras.")):
        return f"{_short(f'{module}.{name}')} is not built from a model file, since it can do more than compute"
    return f"its layer {_short(name)} is not one of Keras' own"


def _check_function(part: dict[str, Any], functions: frozenset[str]) -> None:
    name = part.get("config")
    if not isinstance(name, str):
        raise RefusedConfig(f"it contains a function without a proper name: {_short(part)}")
    known = name in ACTIVATIONS and part.get("module") in ACTIVATION_MODULES
    if name not in functions and not known:
        raise RefusedConfig(f"its function {_short(name)} is not one of Keras' activations")
    if part.get("registered_name") not in (None, "function", name):
        raise RefusedConfig(f"its function {_short(part['registered_name'])} is not one of Keras' activations")


def _check_array(config: Any) -> None:
    if not isinstance(config, dict) or config.get("dtype") not in _DTYPES:
        raise RefusedConfig(f"it contains an array without a proper dtype: {_short(config)}")
    stack, deepest = [(config.get("value"), 0)], 0
    while stack:
        value, depth = stack.pop()
        deepest = max(deepest, depth)
        if isinstance(value, list) and depth < 8:
            stack.extend((child, depth + 1) for child in value)
        elif not isinstance(value, bool | int | float):
            raise RefusedConfig(f"it contains an array of something else than numbers: {_short(value)}")


def _check_call(node: Any, layer: str) -> None:
    """Checks the arguments of one call of a layer.

    Keras calls an operation at once, not symbolically, if none of its arguments is a tensor; what it returns can then
    be of any size.
    """
    if not node:
        return
    if isinstance(node, list):
        _check_legacy_call(node, layer)
        return
    if not isinstance(node, dict) or not set(node) <= {"args", "kwargs"}:
        raise RefusedConfig(f"a call of its layer {_short(layer)} is malformed")
    if not _check_arguments([node.get("args"), node.get("kwargs")], layer):
        raise RefusedConfig(f"a call of its layer {_short(layer)} has no tensor among its arguments")


def _check_legacy_call(node: list, layer: str) -> None:
    for tensor in node:
        is_place = isinstance(tensor, list) and len(tensor) in (3, 4) and isinstance(tensor[0], str)
        if not is_place or not all(type(index) is int for index in tensor[1:3]):
            raise RefusedConfig(f"a call of its layer {_short(layer)} is malformed")
        _check_arguments(tensor[3:], layer)


def _check_arguments(arguments: Any, layer: str) -> bool:
    """Checks every argument, however nested; whether there is a tensor among them."""
    stack, tensors = [arguments], False
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            name = value.get("class_name")
            if name == _TENSOR:
                tensors = True
            elif name in _PLAIN:
                stack.append(value.get("config", value.get("items")))
            elif name not in _ARRAYS:
                if name is not None or not all(isinstance(key, str) for key in value):
                    raise RefusedConfig(f"a call of its layer {_short(layer)} has {_short(name)} as an argument")
                stack.extend(value.values())
        elif isinstance(value, list):
            stack.extend(value)
        elif isinstance(value, str) and value not in _DTYPES:
            raise RefusedConfig(f"a call of its layer {_short(layer)} has the text {_short(value)} as an argument")
    return tensors


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 80 else f"{text[:77]}..."
