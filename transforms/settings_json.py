"""Frozen dataclasses to JSON and back: the only way that settings, contents and facts are written and read.

    to_json(Geometry())                            -> {"image_size": None, "resize": "stretch", ...}
    from_json(Geometry, {"image_size": [32, 32], ...}, "model.json")

A file from another version may lack keys or have more: that raises one error that says so, never a KeyError.
"""

import dataclasses
import functools
import types
import typing
from typing import Any, TypeVar

from odin_beam.transforms.errors import OdinBeamError

T = TypeVar("T")


class OtherVersion(OdinBeamError):
    """A file was written by another version of odin-beam, or edited; the message says what does not fit."""


def to_json(value: Any) -> Any:
    """A dataclass as a dictionary, tuples as lists, anything else unchanged."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return [to_json(item) for item in value] if isinstance(value, tuple | list) else value


def from_json(cls: type[T], value: Any, where: str) -> T:
    """The dataclass that `to_json` wrote.

    Args:
      cls: a dataclass whose fields are dataclasses, tuples, numbers, strings, or unions of these.
      value: returned by `to_json`, possibly after a round trip through JSON.
      where: the file the value was read from, for the message.

    Raises:
      OtherVersion: keys are missing or unknown, or a value has the wrong type or is out of range.
    """
    if not isinstance(value, dict):
        raise OtherVersion(
            f"{where} was written by another version of odin-beam: it has {_short(value)} for {cls.__name__}"
        )
    types_of = _types(cls)
    missing, unknown = sorted(types_of.keys() - value.keys()), sorted(value.keys() - types_of.keys())
    if missing or unknown:
        problems = [
            f"{text} {', '.join(keys)}" for text, keys in (("lacks", missing), ("has unknown", unknown)) if keys
        ]
        raise OtherVersion(f"{where} was written by another version of odin-beam: it {' and '.join(problems)}")
    try:
        return cls(**{name: _decoded(types_of[name], item, f"{where}: {name}") for name, item in value.items()})
    except (TypeError, ValueError) as e:
        raise OtherVersion(f"{where} was written by another version of odin-beam, or is damaged: {e}") from e


def _short(value: Any) -> str:
    return repr(value)[:40]


@functools.cache
def _types(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _decoded(wanted: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(wanted)
    if origin in (types.UnionType, typing.Union):
        return _of_union(typing.get_args(wanted), value, where)
    if dataclasses.is_dataclass(wanted):
        return from_json(wanted, value, where)
    if origin is tuple and isinstance(value, list):
        item = typing.get_args(wanted)[0]
        return tuple(_decoded(item, element, where) for element in value)
    expected = origin or wanted
    if wanted is float and type(value) is int:
        return float(value)
    if wanted is not Any and (not isinstance(value, expected) or (wanted is not bool and isinstance(value, bool))):
        raise TypeError(f"{where} is {_short(value)}, not {getattr(expected, '__name__', expected)}")
    return value


def _of_union(choices: tuple, value: Any, where: str) -> Any:
    """The value as the first of these types that it fits."""
    if value is None and type(None) in choices:
        return None
    keys = value.keys() if isinstance(value, dict) else None
    alike = [choice for choice in choices if dataclasses.is_dataclass(choice) and _types(choice).keys() == keys]
    problem: Exception = TypeError(f"{where} is {_short(value)}")
    for choice in alike or choices:
        if choice is not type(None):
            try:
                return _decoded(choice, value, where)
            except (OtherVersion, TypeError, ValueError) as e:
                problem = e
    raise problem
