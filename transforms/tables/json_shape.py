"""Checks that a JSON file has the keys and types that its readers rely on: anything in a folder may have been edited.

    problem({"count": -1}, {"count": COUNT})            -> "count is -1"
    problem({"a": 1.0}, {EVERY: (RATE, None)})          -> None

A shape is a type, None, a text (which the value must equal), a predicate, a list (whose only element is the shape of
every item), a tuple of alternatives, or a dictionary: every key must be there unless its shape is a `MayLack`, other
keys do not matter, and the shape of `EVERY` is that of all other values.
"""

import math
from dataclasses import dataclass
from typing import Any

EVERY = object()


@dataclass(frozen=True)
class MayLack:
    """The shape of a value whose key may be missing: earlier versions did not write it."""

    shape: Any


def NUMBER(value: Any) -> bool:  # noqa: N802 - a shape, like COUNT and RATE
    """A finite number that fits a double."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def RATE(value: Any) -> bool:  # noqa: N802
    """A number from 0 to 1, give or take rounding."""
    return NUMBER(value) and -1e-9 <= value <= 1 + 1e-9


def COUNT(value: Any) -> bool:  # noqa: N802
    """A whole number from 0."""
    return type(value) is int and 0 <= value < 1 << 63


def problem(value: Any, shape: Any, name: str = "it") -> str | None:
    """Where a value departs from a shape, in words; None if it does not.

    Args:
      value: of a JSON file.
      shape: see the module.
      name: of the value.
    """
    if isinstance(shape, MayLack):
        return problem(value, shape.shape, name)
    if isinstance(shape, tuple):
        problems = [problem(value, choice, name) for choice in shape]
        return None if None in problems else problems[-1]
    if isinstance(shape, dict) and isinstance(value, dict):
        if absent := [
            key for key, part in shape.items() if not (key is EVERY or key in value or isinstance(part, MayLack))
        ]:
            return f"{name} has no {absent[0]}"
        parts = [(item, shape.get(key, shape.get(EVERY)), key) for key, item in value.items()]
        parts = [part for part in parts if part[2] in shape or EVERY in shape]
    elif isinstance(shape, list) and isinstance(value, list):
        parts = [(item, shape[0], f"an item of {name}") for item in value]
    else:
        return None if _fits(value, shape) else f"{name} is {repr(value)[:40]}"
    return next((found for part in parts if (found := problem(*part)) is not None), None)


def _fits(value: Any, shape: Any) -> bool:
    if isinstance(shape, type):
        return type(value) is shape
    if shape is None or isinstance(shape, str):
        return value == shape
    return callable(shape) and shape(value)
