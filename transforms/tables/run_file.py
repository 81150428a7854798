"""`run.json`: the settings that a run's folder belongs to. It is written when a run is launched and never changed."""

import json
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from odin_beam.transforms import __version__
from odin_beam.transforms.errors import OdinBeamError
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.tables import layout
from odin_beam.transforms.tables.json_files import read_json, write_json


class OtherSettings(OdinBeamError):
    """The folder belongs to a run with other settings; the message names the differences."""


def claim(output: str, settings: ScoreSettings, command: Sequence[str] = ()) -> None:
    """Claims a folder for these settings, unless they own it already.

    Args:
      output: absolute path of the run's folder.
      settings: of the run.
      command: the command line that launched it, if any.

    Raises:
      OtherSettings: the folder belongs to a run with other settings.
      errors.StorageError: `run.json` cannot be read or written.
    """
    earlier = read_json(output, layout.RUN)
    if earlier is None:
        write_json(output, layout.RUN, _content(settings, command))
    elif changes := differences(earlier.get("settings", {}), settings.identity()):
        raise OtherSettings(f"{output} was made with other settings: {'; '.join(changes)}; choose another `output`")


def differences(earlier: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """The differences between two settings, in words.

    Args:
      earlier: returned by `ScoreSettings.identity`.
      now: likewise.
      prefix: for the names of nested settings.
    """
    changes = []
    for key in sorted(earlier.keys() | now.keys()):
        a, b = earlier.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            changes += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            changes.append(f"{prefix}{key} was {_short(a)}, is {_short(b)}")
    return changes


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _content(settings: ScoreSettings, command: Sequence[str]) -> dict[str, Any]:
    return {
        "settings": settings.identity(),
        "model": settings.model,
        "batch_size": settings.batch_size,
        "versions": {
            "odin_beam": __version__,
            "apache_beam": metadata.version("apache-beam"),
            "tensorflow": metadata.version("tensorflow"),
            "python": platform.python_version(),
        },
        "command": list(command),
    }
