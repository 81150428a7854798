"""The output folder of a `score` run: which files are in it, whose it is, and what it says."""

import json
from typing import Any

from apache_beam.io.filesystems import FileSystems

from pipeline.options import UsageError
from transforms import storage

FILES = ("run.json", "manifest.parquet", "metrics.json", "summary.json")
FOLDERS = ("scores", "rejects", "tmp", "flags", "report")


def read_json(output: str, name: str) -> dict[str, Any] | None:
    """One of the run's JSON files, or None where there is none.

    Raises:
      UsageError: it is damaged.
    """
    path = FileSystems.join(output, name)
    if storage.stat_file(path) is None:
        return None
    try:
        content = json.loads(storage.read_bytes(path))
    except ValueError as e:
        raise UsageError(f"{path} is damaged ({e}); remove it and run again") from e
    if not isinstance(content, dict):
        raise UsageError(f"{path} is damaged (no JSON object); remove it and run again")
    return content


def refuse_other_settings(output: str, settings: dict[str, Any]) -> None:
    """An output folder belongs to one set of settings.

    Raises:
      UsageError: it was made with others, or with nobody knows which; the message names the differences.
    """
    earlier = read_json(output, "run.json")
    if earlier is None:
        if storage.list_files(FileSystems.join(output, "scores", "**.parquet")):
            raise UsageError(f"{output} holds scores without run.json: choose another --output, or --overwrite")
        return
    differences = _differences(earlier.get("settings", {}), settings)
    if differences:
        raise UsageError(
            f"{output} was made with other settings: {'; '.join(differences)}; "
            "choose another --output, or --overwrite to start afresh"
        )


def _differences(earlier: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted(earlier.keys() | now.keys()):
        a, b = earlier.get(key), now.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} was {_short(a)}, is {_short(b)}")
    return found


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def start_afresh(output: str) -> None:
    """Removes what an earlier run has left in its folder, and nothing else."""
    for folder in FOLDERS:
        storage.delete_folder(FileSystems.join(output, folder))
    storage.delete(FileSystems.join(output, name) for name in FILES)
