"""Everything that a score depends on. Imports no TensorFlow."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import pyarrow as pa

from odin_beam.transforms.detectors import registry
from odin_beam.transforms.detectors.odin_settings import OdinGrid, OdinSettings
from odin_beam.transforms.forward import precisions
from odin_beam.transforms.images.geometry import Geometry
from odin_beam.transforms.model.files import model_digest
from odin_beam.transforms.model.preprocessing import Preprocessing
from odin_beam.transforms.settings_json import OtherVersion, from_json, to_json
from odin_beam.transforms.shards.shard import FeatureNames
from odin_beam.transforms.storage.paths import absolute_path
from odin_beam.transforms.tables import layout, schemas

# In the fingerprint, the versions of the rows. The second is named after its former content, the package's version.
_VERSIONS = ("schema_version", "code_version")
# In the fingerprint only if they are given.
_LATER = ("reference_digest", "kept_features", "features_run")
# In the fingerprint, the class names: the rows repeat them.
_NAMES_DIGEST = "class_names_digest"


def names_digest(names: Sequence[str]) -> str:
    """SHA-256, in hex, of class names in their order."""
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()


@dataclass(frozen=True)
class ScoreSettings:
    """Everything that a score depends on, and the batch size.

        >>> settings = odin_beam.ScoreSettings.for_model("classifier.keras", detectors=("odin", "msp"))
        >>> settings.odin
        OdinSettings(temperature=1000.0, epsilon=0.0014)

    Attributes:
      model: path of the model file, on any file system.
      model_digest: SHA-256 of its content.
      preprocessing: what the model expects of its input.
      geometry: how to handle images of another size.
      features: names of the Example's features.
      odin: temperature and epsilon, or a grid of them: then the rows have one column per cell instead of `odin`.
      detectors: the detectors to compute, from `registry.DETECTORS`, and with a reference from `FITTED_DETECTORS`, too;
        the other columns are null.
      precision: one of `precisions.PRECISIONS`.
      output_name: which output of the model to use, if it has several.
      model_factory: `package.module:function` that builds the model from the file, if Keras alone cannot.
      batch_size: images scored at once; it changes float32 logits by an ulp at most, so it is not in the fingerprint.
      reference: path of the reference that `fit` wrote, for the fitted detectors; None without them.
      reference_digest: `Reference.digest` of its content; in the fingerprint only if there is one.
      kept_features: type of the features to keep beside the scores, one of `schemas.FEATURE_TYPES`; None to keep none.
        In the fingerprint only if given.
      features_run: digest of the settings of the run whose features are scored in place of images; None for images.
        In the fingerprint only if given.
      class_names: names of the K classes, in the order of the model's outputs; None where they have none. In the
        fingerprint, by their digest, only if the rows have them.
    """

    # The table that the rows are committed to.
    table: ClassVar[str] = layout.SCORES

    model: str
    model_digest: str
    preprocessing: Preprocessing = Preprocessing()
    geometry: Geometry = Geometry()
    features: FeatureNames = FeatureNames()
    odin: OdinSettings | OdinGrid = OdinSettings()
    detectors: tuple[str, ...] = registry.DETECTORS
    precision: str = "float32"
    output_name: str | None = None
    model_factory: str | None = None
    batch_size: int = 64
    reference: str | None = None
    reference_digest: str | None = None
    kept_features: str | None = None
    features_run: str | None = None
    class_names: tuple[str, ...] | None = None

    def __post_init__(self):
        unknown = sorted(set(self.detectors) - set(registry.ALL))
        if unknown or not self.detectors:
            raise ValueError(f"detectors are of {', '.join(registry.ALL)}, not {', '.join(unknown) or 'none'}")
        fitted = [name for name in self.detectors if name in registry.FITTED_DETECTORS]
        if fitted and self.reference_digest is None:
            raise ValueError(f"detectors {', '.join(fitted)} need a `reference`, which `fit` makes")
        if self.precision not in precisions.PRECISIONS:
            raise ValueError(f"precision is one of {', '.join(precisions.PRECISIONS)}, not {self.precision!r}")
        if self.kept_features not in (None, *schemas.FEATURE_TYPES):
            types = ", ".join(schemas.FEATURE_TYPES)
            raise ValueError(f"kept_features is one of {types}, not {self.kept_features!r}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")

    @classmethod
    def for_model(cls, model: str, **settings: Any) -> Self:
        """The settings for a model file, whose digest is computed now.

        Args:
          model: path of a `.keras` or `.h5` file, or of a SavedModel folder, on any file system.
          settings: the other attributes. With a `reference`, its digest is computed, too, and `detectors` defaults to
            all of them.

        Raises:
          ClassifierError: the model cannot be read.
          FeatureReferenceError: the reference is not one of this model, fed in this way.
          StorageError: the reference cannot be read.
          ValueError: a setting is out of its range.
        """
        model = absolute_path(model)
        digest = model_digest(model, any_file=settings.get("model_factory") is not None)
        if (reference := settings.pop("reference", None)) is None:
            return cls(model, digest, **settings)
        from odin_beam.transforms.scoring.own_reference import with_reference

        detectors = settings.pop("detectors", None)
        return with_reference(cls(model, digest, **settings), reference, detectors)[0]

    @property
    def schema(self) -> pa.Schema:
        """Schema of the rows."""
        if isinstance(self.odin, OdinGrid):
            return schemas.grid_schema(tuple(self.odin.cells))
        return schemas.SCORE_SCHEMA

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that a finished shard is in, the one that marks it as finished last."""
        return (self.table,) if self.kept_features is None else (layout.FEATURES, self.table)

    @property
    def features_type(self) -> str | None:
        """Type of the features that a shard's rows hold; None if there are none."""
        return self.kept_features

    @property
    def digests_images(self) -> bool:
        """Whether the rows tell which images belong together."""
        return self.kept_features is not None or schemas.SPLIT_COLUMNS[0].name in self.schema.names

    def identity(self) -> dict[str, Any]:
        """The settings in the fingerprint, as JSON-compatible values."""
        values = to_json(self)
        del values["model"], values["batch_size"], values["reference"], values["class_names"]
        if self.class_names is not None and "class_name" in self.schema.names:
            values[_NAMES_DIGEST] = names_digest(self.class_names)
        for name in _LATER:
            if values[name] is None:
                # As it was before there was such a setting.
                del values[name]
        values["detectors"] = sorted(set(self.detectors))
        version = schemas.GRID_SCHEMA_VERSION if isinstance(self.odin, OdinGrid) else schemas.SCHEMA_VERSION
        return values | dict(zip(_VERSIONS, (version, schemas.ROWS_VERSION), strict=True))

    @classmethod
    def from_identity(
        cls,
        model: str,
        identity: dict[str, Any],
        where: str,
        reference: str | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Self:
        """The settings that `identity` wrote, except for the batch size.

        Args:
          model: path of the model file.
          identity: returned by `identity`.
          where: the file it was read from.
          reference: path of the reference, if there is one.
          class_names: the names whose digest is in the identity.

        Raises:
          OtherVersion: another version of odin-beam wrote it, or the class names are others.
        """
        digest = None if class_names is None else names_digest(class_names)
        if identity.get(_NAMES_DIGEST, digest) != digest:
            raise OtherVersion(f"{where} is damaged: its class names are not those of its settings")
        values = {name: value for name, value in identity.items() if name not in (*_VERSIONS, _NAMES_DIGEST)}
        names = None if class_names is None else list(class_names)
        apart = {"model": model, "batch_size": 64, "reference": reference, "class_names": names}
        return from_json(cls, {**dict.fromkeys(_LATER), **values, **apart}, where)
