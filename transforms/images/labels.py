"""The class index that a feature of an Example holds, in the ways that people write it."""

import math
from collections.abc import Sequence

from odin_beam.transforms.text import clipped, printable

# Float32 holds every whole number up to here.
_MAX_FLOAT_LABEL = 1 << 24
# Digits that surely fit into 64 bits.
_MAX_DIGITS = 18
_SHOWN_VALUES = 4
_SHOWN_LENGTH = 60


def class_index(kind: str | None, values: Sequence) -> int | None:
    """The index, if the values say it without doubt.

    * one integer, a float that is a whole number, or text in decimal digits;
    * one-hot: a single 1 among zeros, of at least 2 floats or at least 3 integers. Two integers may also be two
      classes.

    Args:
      kind: `int64_list`, `float_list`, `bytes_list` or None for an empty feature.
      values: of that kind.

    Returns:
      None without a label: TensorFlow Datasets writes -1, NumPy NaN; or if it cannot be read, see `label_problem`.
    """
    if kind == "bytes_list":
        text = bytes(values[0]).strip() if len(values) == 1 and len(values[0]) <= _MAX_DIGITS else b""
        return int(text) if text.isdigit() else None
    if len(values) == 1:
        value = values[0]
        if kind == "int64_list":
            return value if value >= 0 else None
        return int(value) if 0 <= value <= _MAX_FLOAT_LABEL and value == int(value) else None
    if kind is None or len(values) < (3 if kind == "int64_list" else 2):
        return None
    places = [place for place, value in enumerate(values) if value]
    return places[0] if len(places) == 1 and values[places[0]] == 1 else None


def label_problem(name: str, kind: str | None, values: Sequence) -> str | None:
    """What was found where a label was expected; None for a label, or one that is marked as missing."""
    if kind is None or not len(values):
        return f"feature {name!r} is empty"
    is_missing = kind != "bytes_list" and len(values) == 1 and (math.isnan(values[0]) or values[0] == -1)
    if is_missing or class_index(kind, values) is not None:
        return None
    shown = ", ".join(_shown(value) for value in values[:_SHOWN_VALUES])
    more = ", ..." if len(values) > _SHOWN_VALUES else ""
    return f"feature {name!r} is {kind} of {len(values)} ({shown}{more}), not a class index"


def _shown(value: bytes | float) -> str:
    if isinstance(value, bytes):
        return repr(printable(clipped(value[:_SHOWN_LENGTH].decode(errors="replace"), _SHOWN_LENGTH)))
    return f"{value:g}" if isinstance(value, float) else str(value)
