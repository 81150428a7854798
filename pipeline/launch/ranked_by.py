"""The detector that a job shows images by."""

from collections.abc import Collection

from odin_beam.transforms.detectors.registry import ALL, DEFAULTS


def ranked_by(detectors: Collection[str], flagged_by: str | None) -> str:
    """That of the flags, which is what the calibration recommends unless another was given; else the default.

    Args:
      detectors: that the run has scores of.
      flagged_by: the detector of the flags; None without flags.
    """
    return next(name for name in (flagged_by, *DEFAULTS, *ALL) if name in detectors)
