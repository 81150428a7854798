"""`model.json`: what `check` found out about a model, for `--model_config`."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from odin_beam.pipeline.flags.options import UsageError
from odin_beam.transforms import errors
from odin_beam.transforms.storage import reading, writing

_KEYS = ("model_digest", "preprocessing", "geometry", "output_name")


@dataclass(frozen=True)
class ModelConfig:
    """How a model is to be fed, and which model that is.

    Attributes:
      model_digest: SHA-256 of the model file.
      preprocessing: fields of `classifier.Preprocessing`.
      geometry: fields of `images.Geometry`.
      output_name: which output of the model; None where it has one.
      found: what else was found, for people to read.
    """

    model_digest: str
    preprocessing: dict[str, Any]
    geometry: dict[str, Any]
    output_name: str | None
    found: dict[str, Any]


def write_model_config(path: str, config: ModelConfig) -> None:
    """Writes it whole or not at all.

    Raises:
      errors.StorageError: the storage refused.
    """
    writing.write_bytes(path, json.dumps(asdict(config), indent=2, allow_nan=False).encode())


def read_model_config(path: str) -> ModelConfig:
    """Reads what `check` wrote.

    Raises:
      UsageError: there is none, or it is damaged.
    """
    try:
        said = json.loads(reading.read_bytes(path))
        config = ModelConfig(**{key: said[key] for key in _KEYS}, found=said.get("found", {}))
    except (errors.StorageError, ValueError, KeyError, TypeError) as e:
        raise UsageError(f"--model_config {path} is no model.json of `check`: {e}") from e
    if not isinstance(config.preprocessing, dict) or not isinstance(config.geometry, dict):
        raise UsageError(f"--model_config {path} is no model.json of `check`: it is damaged")
    return config
