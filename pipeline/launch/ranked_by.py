"""The detector that images are ranked by."""

from collections.abc import Collection
from typing import Any

from odin_beam.transforms.detectors.registry import ALL, DEFAULTS


def ranked_by(detectors: Collection[str], flags: dict[str, Any] | None) -> tuple[str, str]:
    """(detector, why): that of the flags, else the one that `tune` would start from, else the first.

    Args:
      detectors: that the run has scores of.
      flags: content of `flags.json`; None without flags.
    """
    if flags is not None and flags["detector"] in detectors:
        return flags["detector"], "that of the flags"
    return next((name, "the default") for name in (*DEFAULTS, *ALL) if name in detectors)
