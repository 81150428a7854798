"""The reference that a run's settings name: whether it is the one that they were made with, and of the same model.

settings = with_reference(settings, "/data/reference.npz")
reference = read_own_reference(settings)
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from odin_beam.transforms.detectors.registry import ALL
from odin_beam.transforms.errors import FeatureReferenceError
from odin_beam.transforms.fitting.reference import Reference
from odin_beam.transforms.fitting.reference_file import read_reference
from odin_beam.transforms.settings_json import to_json
from odin_beam.transforms.storage.paths import absolute_path
from odin_beam.transforms.tables.run_file import differences

if TYPE_CHECKING:
    from odin_beam.transforms.scoring.settings import ScoreSettings

# What the features of an image depend on, besides the model. Those of mixed precision serve float32, and vice versa.
_FEEDING = ("preprocessing", "geometry", "output_name", "model_factory")


def with_reference(
    settings: "ScoreSettings", path: str, detectors: tuple[str, ...] | None = None
) -> tuple["ScoreSettings", Reference]:
    """Settings with a reference, and that reference.

    Args:
      settings: how the model is fed.
      path: of the reference, on any file system.
      detectors: to compute; None for all.

    Raises:
      FeatureReferenceError: the file is not a reference, or was fitted to another model or to one fed in another way.
      StorageError: it cannot be read.
      ValueError: a detector is unknown.
    """
    path = absolute_path(path)
    reference = read_reference(path)
    refuse_other_model(reference, path, settings)
    given = {"reference": path, "reference_digest": reference.digest}
    return replace(settings, **given, detectors=tuple(ALL) if detectors is None else detectors), reference


def read_own_reference(settings: "ScoreSettings") -> Reference | None:
    """The reference that the settings name; None if they name none.

    Raises:
      FeatureReferenceError: it has changed since, is damaged, or was fitted to another model.
      StorageError: it cannot be read.
    """
    if settings.reference is None:
        return None
    reference = read_reference(settings.reference)
    if reference.digest != settings.reference_digest:
        raise FeatureReferenceError(f"reference {settings.reference} has changed since the run was launched")
    refuse_other_model(reference, settings.reference, settings)
    return reference


def refuse_other_model(reference: Reference, path: str, settings: "ScoreSettings") -> None:
    """Checks that a reference was fitted to the model of the settings, fed as they say.

    Raises:
      FeatureReferenceError: it was not; the message names what differs.
    """
    about = reference.about
    if about.get("model_digest") != settings.model_digest:
        raise FeatureReferenceError(f"reference {path} was fitted to a different model: run `fit` on this one")
    fed, now = ({name: source.get(name) for name in _FEEDING} for source in (about, to_json(settings)))
    if changes := differences(fed, now):
        raise FeatureReferenceError(
            f"reference {path} was fitted with other settings: {'; '.join(changes)}: feed the model in the same way, "
            "or run `fit` again"
        )
