"""A run's settings in words, for people."""

from collections.abc import Mapping
from typing import Any

# Settings whose name does not say what they are, or that are shown in another form.
_TITLES = {
    "model_digest": "digest of the model (SHA-256)",
    "reference_digest": "digest of the reference (SHA-256)",
    "class_names_digest": "digest of the class names (SHA-256)",
    "features": "names of the features read",
    "output_name": "output of the model that is scored",
    "odin": "ODIN",
    "precision": "arithmetic",
    "geometry": "fitting images to the model's input",
    "preprocessing": "preprocessing of pixels",
}


def settings_rows(launch: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, its value) of all that was set for a run, and of the versions that ran.

    Args:
      launch: content of `run.json`.
    """
    rows = [("model", launch["model"])]
    if names := launch.get("class_names"):
        rows.append((f"its {len(names):,} classes" if len(names) != 1 else "its class", ", ".join(names)))
    settings = {name: value for name, value in launch["settings"].items() if not _is_empty(value)}
    rows += [(_TITLES.get(name, _spaced(name)), in_words(value)) for name, value in settings.items()]
    rows += [(f"version of {name}", version) for name, version in launch["versions"].items()]
    return [(title, text) for title, text in rows if text]


def in_words(value: Any) -> str:
    """A value of a JSON file: lists with commas, dictionaries as name and value, what is not set left out."""
    if isinstance(value, Mapping):
        return "; ".join(f"{_spaced(name)}: {in_words(own)}" for name, own in value.items() if not _is_empty(own))
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, list | tuple | Mapping | str) and not value)


def _spaced(name: str) -> str:
    return str(name).replace("_", " ")
