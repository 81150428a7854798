"""`run.json`: the settings that a run's folder belongs to. It is written when a run is launched and never changed.

Locally it is created in one step, so of two runs with different settings that are launched at the same moment, one gets
the folder. Object stores cannot promise that; there, and where a run that overwrites has taken the folder, workers
notice when they commit (`check_owner`), and readers refuse files with another fingerprint.
"""

import json
import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from odin_beam.transforms import __version__
from odin_beam.transforms.errors import OdinBeamError, OutputTakenError, StorageError
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.storage import paths
from odin_beam.transforms.tables import layout
from odin_beam.transforms.tables.json_files import read_json, write_json_if_absent


class OtherSettings(OdinBeamError):
    """The folder belongs to a run with other settings; the message names the differences."""


def claim(output: str, settings: ScoreSettings, command: Sequence[str] = ()) -> None:
    """Claims a folder for these settings, unless they own it already; to be called before anything else is written.

    Args:
      output: absolute path of the run's folder.
      settings: of the run.
      command: the command line that launched it, if any.

    Raises:
      OtherSettings: the folder belongs to a run with other settings.
      errors.StorageError: `run.json` cannot be read or written.
    """
    if read_json(output, layout.RUN) is None:
        write_json_if_absent(output, layout.RUN, _content(settings, command))
    # Read back: another run may have been faster.
    if changes := differences(read_identity(output), settings.identity()):
        raise OtherSettings(f"{output} was made with other settings: {'; '.join(changes)}; choose another `output`")


def read_identity(output: str) -> dict[str, Any]:
    """The settings that a folder belongs to, as `ScoreSettings.identity` returned them.

    Raises:
      errors.StorageError: `run.json` is missing, damaged, or cannot be read.
    """
    content, path = read_json(output, layout.RUN), paths.join(output, layout.RUN)
    if content is None:
        raise StorageError(f"{path} is missing: run `score` again")
    if not isinstance(settings := content.get("settings"), dict):
        raise StorageError(f"{path} is damaged (no settings): remove it and run again")
    return settings


def check_owner(output: str, identity: dict[str, Any]) -> None:
    """Checks that a folder still belongs to these settings.

    Args:
      output: the run's folder.
      identity: returned by `ScoreSettings.identity`.

    Raises:
      errors.OutputTakenError: it belongs to another run, or to none.
      errors.StorageError: `run.json` is damaged, or cannot be read.
    """
    content = read_json(output, layout.RUN)
    if content is None or content.get("settings") != identity:
        raise OutputTakenError.by(output, "settings")


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
        **({} if settings.reference is None else {"reference": settings.reference}),
        **({} if settings.class_names is None else {"class_names": list(settings.class_names)}),
        "batch_size": settings.batch_size,
        "versions": {
            "odin_beam": __version__,
            "apache_beam": metadata.version("apache-beam"),
            "tensorflow": metadata.version("tensorflow"),
            "python": platform.python_version(),
        },
        "command": list(command),
    }
