"""Everything that the features of an image depend on. Imports no TensorFlow."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import pyarrow as pa

from odin_beam.transforms.detectors.odin_settings import OdinSettings
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.settings_json import to_json
from odin_beam.transforms.tables import layout, schemas

_DEPENDS_ON = (
    *("model_digest", "preprocessing", "geometry", "features"),
    *("precision", "output_name", "model_factory"),
)


@dataclass(frozen=True)
class FeatureSettings(ScoreSettings):
    """A run that commits, for each image, the input of the classifier's last layer in place of scores.

    It takes one forward pass an image, and no gradient.

    Attributes:
      width: D, number of features; 0 before the classifier is loaded. The model's digest implies it.
    """

    table: ClassVar[str] = layout.FEATURES

    width: int = 0

    @classmethod
    def of(cls, settings: ScoreSettings) -> Self:
        """The features of a model that is fed as these settings say."""
        values = {field.name: getattr(settings, field.name) for field in fields(ScoreSettings)}
        return cls(**{**values, "odin": OdinSettings(1.0, 0.0), "detectors": ("msp",)})

    @property
    def schema(self) -> pa.Schema:
        """Schema of the rows."""
        return schemas.features_schema(self.width)

    @property
    def features_type(self) -> str:
        """Type of the features in the rows."""
        return "float32"

    def identity(self) -> dict[str, Any]:
        """The settings in the fingerprint, as JSON-compatible values; neither ODIN nor detectors are among them."""
        values = to_json(self)
        return {name: values[name] for name in _DEPENDS_ON} | {"features_version": schemas.FEATURES_VERSION}
