"""The JSON files of a run's folder, written whole or not at all."""

import json
from typing import Any

from odin_beam.transforms.storage import paths, writing


def write_json(output: str, name: str, content: dict[str, Any]) -> None:
    """Writes one of the run's JSON files, whole or not at all."""
    data = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    writing.write_bytes(paths.join(output, name), data.encode())
