"""The JSON files of a run's folder, written completely or not at all.

What is read may have been edited: only a JSON object of bounded size and depth, with finite
numbers, is accepted.
"""

import json
import math
from typing import Any

from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.storage import listing, paths, reading, writing

# The summary of an archive of which 100,000 shards failed has 20 MB.
MAX_BYTES = 1 << 26


def write_json(output: str, name: str, content: dict[str, Any]) -> None:
    """Writes a JSON file.

    Raises:
      errors.StorageError: the storage refused the write.
    """
    writing.write_bytes(paths.join(output, name), _encoded(content))


def write_json_if_absent(output: str, name: str, content: dict[str, Any]) -> bool:
    """Writes a JSON file unless it exists, and returns whether it was written; see `write_bytes_if_absent`.

    Raises:
      errors.StorageError: the storage refused the write.
    """
    return writing.write_bytes_if_absent(paths.join(output, name), _encoded(content))


def _encoded(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False).encode()


def read_json(output: str, name: str) -> dict[str, Any] | None:
    """Reads a JSON file; None if it does not exist.

    Raises:
      errors.StorageError: the file cannot be read, or is damaged.
    """
    path = paths.join(output, name)
    if listing.stat_file(path) is None:
        return None
    try:
        return read_object(path)
    except ValueError as e:
        raise StorageError(f"{path} is damaged ({e}): remove it and run again") from e


def read_object(path: str, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Reads a file with one JSON object.

    Args:
      path: of the file.
      max_bytes: a larger file is not read.

    Raises:
      errors.StorageError: the file cannot be read.
      ValueError: it is too large or nested too deeply, is not a JSON object, or has a number that is not finite.
    """
    stat = listing.stat_file(path)
    if stat is not None and stat.size > max_bytes:
        raise ValueError(f"{stat.size:,} bytes, more than {max_bytes:,}")
    try:
        content = json.loads(reading.read_bytes(path), parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is not a finite number")
    return number
