"""`run.json`: which settings a run's folder belongs to. It is written when a run is launched, and never again."""

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
    """Makes a folder that of these settings, unless it is already.

    Args:
      output: absolute path of the run's folder.
      settings: of the run.
      command: the command line that launched it, if any.

    Raises:
      OtherSettings: it is that of others.
      errors.StorageError: it cannot be read or written.
    """
    earlier = read_json(output, layout.RUN)
    if earlier is None:
        write_json(output, layout.RUN, _content(settings, command))
    elif found := differences(earlier.get("settings", {}), settings.identity()):
        raise OtherSettings(f"{output} was made with other settings: {'; '.join(found)}; choose another `output`")


def differences(earlier: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """What differs between two settings, in words.

    Args:
      earlier: as `ScoreSettings.identity` gave them.
      now: likewise.
      prefix: of the names, for nested settings.
    """
    found = []
    for key in sorted(earlier.keys() | now.keys()):
        a, b = earlier.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} was {_short(a)}, is {_short(b)}")
    return found


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
