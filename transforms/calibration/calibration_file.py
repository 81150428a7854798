"""`calibration.json`: the result of `tune` for a classifier, against which later scores are compared.

Its keys:

    model, settings     which classifier, and the settings of `score` under which the figures hold
    reference           path of the reference of the fitted detectors, whose digest is in the settings; null without one
    class_names         of the model, in the order of its outputs; null if they are not known
    objective           the objective, the images compared against, and whether these were surrogates
                        (figures are those of the half of the images that chooses, unless they are said not to be)
    choice, grid        the chosen cell, its gains on the other half with their intervals, the figures of every cell
    recommendation      the recommended detector, why, and every detector's gain over the default; see `choose_detector`
    detectors           the same figures for the detectors that need no tuning
    thresholds          by detector, a table from true positive rate to threshold, on the other half
    scores              by detector, the calibration scores themselves as steps, see `conformal.CalibrationScores`
    class_scores        by detector and predicted class, if requested
    rest_scores         by detector, the pooled scores of the classes without scores of their own, if requested
    labels              of a person, if `review` re-calibrated: their digest, and digests of the images
    sources, cost, warnings, versions
"""

import json
from dataclasses import dataclass
from typing import Any

from odin_beam.transforms import errors
from odin_beam.transforms.calibration.conformal import CalibrationScores
from odin_beam.transforms.detectors.odin_settings import OdinSettings
from odin_beam.transforms.errors import CalibrationError
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.settings_json import OtherVersion
from odin_beam.transforms.storage import writing
from odin_beam.transforms.tables.json_files import read_object
from odin_beam.transforms.tables.json_shape import COUNT, EVERY, MayLack, problem

KIND = "odin-beam calibration"
VERSION = 1
# 4,096 steps by class and detector are long, and still smaller.
_MAX_BYTES = 1 << 28
_SHAPE = {
    "kind": str,
    "version": int,
    "model": str,
    "settings": dict,
    "scores": dict,
    "class_scores": {EVERY: dict},
    "sources": {EVERY: {"role": str}},
    "labels": MayLack({"digest": str, "images": [COUNT]}),
}
# The settings that the scores of every detector depend on, besides the model's digest.
SHARED_SETTINGS = ("preprocessing", "geometry", "precision", "output_name", "model_factory")


@dataclass(frozen=True, eq=False)
class Calibration:
    """A calibration as read.

        >>> calibration = odin_beam.read_calibration("calibration.json")
        >>> calibration.temperature, calibration.epsilon
        (1000.0, 0.0014)

    Attributes:
      content: the whole file, JSON-compatible.
      settings: of `score`, under which the figures hold.
      scores: by detector.
      class_scores: by detector, then by predicted class; empty if not requested.
      rest_scores: by detector, the pooled scores of the other classes, where there are enough; None if an earlier
        version, which did not keep them, wrote the file.
    """

    content: dict[str, Any]
    settings: ScoreSettings
    scores: dict[str, CalibrationScores]
    class_scores: dict[str, dict[int, CalibrationScores]]
    rest_scores: dict[str, CalibrationScores] | None = None

    @property
    def recommended(self) -> str:
        """The detector to flag by; `odin` in a file of an earlier version, which recommended none."""
        return self.content.get("recommendation", {"detector": "odin"})["detector"]

    @property
    def temperature(self) -> float:
        """ODIN's T."""
        return self.settings.odin.temperature

    @property
    def epsilon(self) -> float:
        """ODIN's epsilon, in [0, 1] pixel units."""
        return self.settings.odin.epsilon


def read_calibration(path: str) -> Calibration:
    """Reads the calibration that `tune` wrote.

        >>> odin_beam.read_calibration("calibration.json").scores["odin"].count
        100

    Raises:
      CalibrationError: the file is missing or damaged, or another version wrote it.
    """
    try:
        content = read_object(path, _MAX_BYTES)
        if found := problem(content, _SHAPE):
            raise ValueError(found)
        if content["kind"] != KIND or content["version"] != VERSION:
            raise CalibrationError(f"{path} is not a calibration of this version of `tune`")
        settings = ScoreSettings.from_identity(content["model"], content["settings"], path, content.get("reference"))
        if not isinstance(settings.odin, OdinSettings):
            raise TypeError("temperature and epsilon must be numbers")
        calibration = Calibration(
            content,
            settings,
            {detector: CalibrationScores.from_dict(steps) for detector, steps in content["scores"].items()},
            {
                detector: {int(predicted): CalibrationScores.from_dict(steps) for predicted, steps in classes.items()}
                for detector, classes in content["class_scores"].items()
            },
            {detector: CalibrationScores.from_dict(steps) for detector, steps in content["rest_scores"].items()}
            if "rest_scores" in content
            else None,
        )
        if calibration.recommended not in calibration.scores:
            raise ValueError("the recommended detector has no scores")
        return calibration
    except (errors.StorageError, OtherVersion) as e:
        raise CalibrationError(str(e)) from e
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as e:
        raise CalibrationError(f"{path} is not a calibration.json of `tune`, or is damaged: {e}") from e


def write_calibration(path: str, content: dict[str, Any]) -> None:
    """Writes the calibration completely or not at all.

    Raises:
      errors.StorageError: the storage refused the write.
    """
    lines = []
    for key, value in {"kind": KIND, "version": VERSION, **content}.items():
        # Nobody reads the long lists, and one number per line would hide the rest.
        text = json.dumps(
            value, indent=None if key in ("scores", "class_scores", "rest_scores") else 2, allow_nan=False
        )
        lines.append(f"  {json.dumps(key)}: " + text.replace("\n", "\n  "))
    writing.write_bytes(path, ("{\n" + ",\n".join(lines) + "\n}\n").encode())
