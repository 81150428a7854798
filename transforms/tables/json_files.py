"""The JSON files of a run's folder, written completely or not at all."""

import json
from typing import Any

from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.storage import listing, paths, reading, writing


def write_json(output: str, name: str, content: dict[str, Any]) -> None:
    """Writes a JSON file.

    Raises:
      errors.StorageError: the storage refused the write.
    """
    data = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    writing.write_bytes(paths.join(output, name), data.encode())


def read_json(output: str, name: str) -> dict[str, Any] | None:
    """Reads a JSON file; None if it does not exist.

    Raises:
      errors.StorageError: the file cannot be read, or is damaged.
    """
    path = paths.join(output, name)
    if listing.stat_file(path) is None:
        return None
    try:
        content = json.loads(reading.read_bytes(path))
    except ValueError as e:
        raise StorageError(f"{path} is damaged ({e}): remove it and run again") from e
    if not isinstance(content, dict):
        raise StorageError(f"{path} is damaged (not a JSON object): remove it and run again")
    return content
