"""`model.json`: what `check` found out about a model, for `--model_config`."""

import json
from dataclasses import dataclass, field
from typing import Any

from odin_beam.pipeline.errors import UsageError
from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.images.geometry import Geometry
from odin_beam.transforms.model.preprocessing import Preprocessing
from odin_beam.transforms.settings_json import OtherVersion, from_json, to_json
from odin_beam.transforms.storage import writing
from odin_beam.transforms.tables.json_files import read_object


@dataclass(frozen=True)
class ModelConfig:
    """How a model is to be fed, and which model that is.

    Attributes:
      model_digest: SHA-256 of the model file.
      preprocessing: what the model expects of its input.
      geometry: how images of another size are fitted.
      output_name: which output of the model; None if it has only one.
      found: what else was found, for people to read.
    """

    model_digest: str
    preprocessing: Preprocessing
    geometry: Geometry
    output_name: str | None
    found: dict[str, Any] = field(default_factory=dict)


def write_model_config(path: str, config: ModelConfig) -> None:
    """Writes it whole or not at all.

    Raises:
      errors.StorageError: it cannot be written.
    """
    writing.write_bytes(path, json.dumps(to_json(config), indent=2, allow_nan=False).encode())


def read_model_config(path: str) -> ModelConfig:
    """Reads what `check` wrote.

    Raises:
      UsageError: there is none, another version wrote it, or it is damaged.
    """
    try:
        content = read_object(path)
        return from_json(ModelConfig, {"found": {}, **content}, path)
    except OtherVersion as e:
        raise UsageError(f"--model_config: {e}; run `odin-beam check` again") from e
    except (StorageError, ValueError, TypeError) as e:
        raise UsageError(f"--model_config {path} is not a model.json of `check`: {e}") from e
