"""The batch job's rows for images in memory: one in a service, a few thousand in a notebook.

scorer = OdinScorer("classifier.keras", calibration="calibration.json")
scorer.score_one(request.body)["is_ood"]
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pyarrow as pa

from odin_beam.transforms.calibration.calibration_file import Calibration, read_calibration
from odin_beam.transforms.calibration.flag_rule import FlagRule
from odin_beam.transforms.detectors import registry
from odin_beam.transforms.errors import CalibrationError, ImageError, StorageError
from odin_beam.transforms.images import decoding
from odin_beam.transforms.images.example import ImageRecord
from odin_beam.transforms.images.resize import fit
from odin_beam.transforms.model.files import model_digest
from odin_beam.transforms.scoring.batches import DecodedBatch, non_finite
from odin_beam.transforms.scoring.own_reference import with_reference
from odin_beam.transforms.scoring.rows import score_rows
from odin_beam.transforms.scoring.scorer import Scorer
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.storage import paths, reading
from odin_beam.transforms.tables.schemas import SCORE_SCHEMA

# A path, an encoded image, or pixels.
GivenImage = str | os.PathLike | bytes | np.ndarray
_SETTINGS = {field.name for field in fields(ScoreSettings)} - {"model", "model_digest", "reference", "reference_digest"}
# What says where a row of a run is.
_PLACE = ("shard", "index", "offset", "label")
_SCHEMA = pa.schema([column for column in SCORE_SCHEMA if column.name not in _PLACE])


class OdinScorer:
    """Scores images as the batch job does, without one; any number of threads may use it.

        >>> scorer = odin_beam.OdinScorer("classifier.keras")
        >>> row = scorer.score_one(np.zeros((28, 28), np.uint8))
        >>> 0.1 <= row["msp"] <= 1
        True

    Args:
      model: path of a model file, on any file system.
      calibration: path of a `calibration.json`: temperature, epsilon, precision, how the model is fed, class names, the
        reference, and what images are compared with for `p_value` and `is_ood`. None for rows without these two.
      reference: path of a `reference.npz`, for the fitted detectors; defaults to that of the calibration, if any.
      detector: by which images are flagged; None for the one that the calibration recommends.
      tpr: true positive rate of the threshold, in (0, 1); None for 0.95.
      settings: attributes of `ScoreSettings`; with a calibration, `detectors`, `batch_size` and `class_names`, and of
        the others only what it has itself.

    Raises:
      CalibrationError: the calibration cannot be read, is of another model, or has not the detector.
      ClassifierError: the model cannot be used.
      FeatureReferenceError: the reference is not one of this model, fed in this way.
      StorageError: a file cannot be read.
      TypeError: a setting is unknown.
      ValueError: a setting is out of its range.
    """

    def __init__(
        self,
        model: str | os.PathLike,
        *,
        calibration: str | os.PathLike | None = None,
        reference: str | os.PathLike | None = None,
        detector: str | None = None,
        tpr: float | None = None,
        **settings: Any,
    ):
        if unknown := set(settings) - _SETTINGS:
            raise TypeError(f"there is no setting {sorted(unknown)[0]}: they are {', '.join(sorted(_SETTINGS))}")
        self._rule: FlagRule | None = None
        if calibration is None:
            if detector is not None or tpr is not None:
                raise ValueError("a `detector` or `tpr` to flag by needs a `calibration`")
            given = {} if reference is None else {"reference": os.fspath(reference)}
            self.settings = ScoreSettings.for_model(os.fspath(model), **given, **settings)
        else:
            path = paths.absolute_path(os.fspath(calibration))
            read = read_calibration(path)
            self.settings = _calibrated(os.fspath(model), read, path, reference, settings)
            self._rule = _rule(read, path, detector, 0.95 if tpr is None else tpr)
            if self._rule.detector not in self.settings.detectors:
                raise ValueError(f"`detectors` leaves out {self._rule.detector}, which images are flagged by")
        self._scorer = Scorer(self.settings)
        names = self.settings.class_names
        self._names = None if names is None else pa.array(names, pa.string())

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of the classifier's input."""
        return self._scorer.classifier.input_shape

    def score_one(self, image: GivenImage) -> dict[str, Any]:
        """The row of one image.

        Args:
          image: see `score`.

        Raises:
          ImageError: it cannot be decoded or scored; `reason` is that of a reject.
          StorageError: the file cannot be read.
          ValueError: an array of another layout or range.
        """
        row = next(self._rows([image], raises=True))
        if "reason" in row:
            raise ImageError(row["reason"], row["detail"])
        return row

    def score(self, images: Sequence[GivenImage]) -> list[dict[str, Any]]:
        """A row per image, in their order.

        Args:
          images: each a path, on any file system; an encoded image; or pixels of any size, [H, W, C] or [H, W], C of 1,
            3 or 4 (alpha is dropped), uint8, or float in [0, 1].

        Returns:
          Dictionaries: `id` and `uri` (the path; None of an image in memory), `prediction`, `class_name`, a key for
          every detector (None where it has no score), and with a calibration `p_value` and `is_ood`. Of an image that
          cannot be read, decoded or scored: `id`, `uri`, `reason` and `detail`, as in the rejects of a run.

        Raises:
          OutOfMemory: a single image exhausts the memory of the device.
          TypeError: `images` is one image.
          ValueError: an array of another layout or range.
        """
        if isinstance(images, str | bytes | os.PathLike):
            raise TypeError("`images` is one image: use `score_one`, or give a list")
        return list(self._rows(images))

    def _rows(self, images: Sequence[GivenImage], raises: bool = False) -> Iterator[dict[str, Any]]:
        size = self.settings.batch_size
        for start in range(0, len(images), size):
            yield from self._batch(images[start : start + size], raises)

    def _batch(self, images: Sequence[GivenImage], raises: bool) -> Iterator[dict[str, Any]]:
        pixels = np.empty((len(images), *self.input_shape), np.float32)
        problems = list(
            self._scorer.decoders.map(lambda i: self._decode(images[i], pixels[i], raises), range(len(images)))
        )
        good = [place for place, problem in enumerate(problems) if problem is None]
        places = [{"id": name, "uri": name} for name in map(_name, images)]
        decoded = DecodedBatch(pixels if len(good) == len(images) else pixels[good], [places[i] for i in good])
        columns = self._scorer.score(self._scorer.on_device(decoded.pixels)).scored.columns if good else {}
        rows: Iterator[dict[str, Any]] = iter(())
        if good:
            rows = iter(self._judged(score_rows(None, decoded, columns, _SCHEMA, self._names)))
            for place, finite in zip(good, columns["finite"], strict=True):
                problems[place] = None if finite else non_finite()
        for place, problem in zip(places, problems, strict=True):
            yield next(rows) if problem is None else {**place, "reason": problem[0], "detail": problem[1]}

    def _decode(self, image: GivenImage, out: np.ndarray, raises: bool) -> tuple[str, str] | None:
        """Writes its pixels; returns the reason and detail of a reject, None if there is no problem."""
        try:
            if isinstance(image, np.ndarray):
                _fit_array(image, self.settings, out)
                return None
            if not isinstance(image, bytes):
                image = reading.read_bytes(os.fspath(image))
            record = ImageRecord(image, None, None, None)
            decoding.pixels(record, self.input_shape, self.settings.geometry, out)
        except ImageError as e:
            return e.reason, e.detail
        except StorageError as e:
            if raises:
                raise
            return "unreadable", str(e)
        return None

    def _judged(self, rows: pa.RecordBatch) -> list[dict[str, Any]]:
        found = rows.to_pylist()
        if self._rule is not None and found:
            scores = rows[self._rule.detector].to_numpy(zero_copy_only=False).astype(np.float64)
            predictions = rows["prediction"].to_numpy()
            p_values = self._rule.p_values(scores, predictions)
            flagged = self._rule.flagged(scores, predictions, p_values, None)
            for row, p_value, is_ood in zip(found, p_values.tolist(), flagged.tolist(), strict=True):
                missing = np.isnan(p_value)
                row |= {"p_value": None if missing else p_value, "is_ood": None if missing else is_ood}
        return found


def _name(image: GivenImage) -> str | None:
    return None if isinstance(image, bytes | np.ndarray) else os.fspath(image)


def _calibrated(
    model: str, calibration: Calibration, path: str, reference: str | os.PathLike | None, settings: Mapping[str, Any]
) -> ScoreSettings:
    """The settings of a calibration, for the model at that path.

    Raises:
      CalibrationError: it is of another model, or of other settings than given.
    """
    model, fed = paths.absolute_path(model), calibration.settings
    if model_digest(model, any_file=fed.model_factory is not None) != fed.model_digest:
        raise CalibrationError(f"{path} was calibrated for a different model than {model}")
    free = {"batch_size", "detectors", "class_names"}
    if others := {name for name in settings if name not in free and settings[name] != getattr(fed, name, None)}:
        raise CalibrationError(f"{path} has another {sorted(others)[0]}: leave it out, or leave out the calibration")
    own = calibration.content.get("reference") if reference is None else os.fspath(reference)
    names = settings.get("class_names") or calibration.content.get("class_names")
    plain = replace(
        fed,
        model=model,
        reference=None,
        reference_digest=None,
        detectors=registry.DETECTORS,
        batch_size=settings.get("batch_size", fed.batch_size),
        class_names=None if names is None else tuple(names),
    )
    chosen = settings.get("detectors")
    if own is None:
        return plain if chosen is None else replace(plain, detectors=tuple(chosen))
    found = with_reference(plain, own, chosen)[0]
    if fed.reference_digest not in (None, found.reference_digest):
        raise CalibrationError(f"{path} was calibrated with another reference than {own}")
    return found


def _rule(calibration: Calibration, path: str, detector: str | None, tpr: float) -> FlagRule:
    """Raises:
    CalibrationError: it has no scores of the detector.
    """
    if not 0 < tpr < 1:
        raise ValueError(f"tpr must be above 0 and below 1, not {tpr}")
    detector = detector or calibration.recommended
    if detector not in calibration.scores:
        raise CalibrationError(f"{path} has no scores of {detector}, only of {', '.join(calibration.scores)}")
    return FlagRule(detector, calibration.scores[detector], {}, tpr=tpr)


def _fit_array(image: np.ndarray, settings: ScoreSettings, out: np.ndarray) -> None:
    """Writes an array's pixels at the size of the classifier.

    Raises:
      ImageError: the geometry does not take an image of this size.
      ValueError: another layout or range.
    """
    channels = out.shape[-1]
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(f"an image is [height, width, channels] with 1, 3 or 4 channels, not {image.shape}")
    if image.dtype == np.uint8:
        fit(decoding.to_channels(image, channels), out.shape[:2], settings.geometry, out)
        return
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"pixels are uint8, or floats in [0, 1], not {image.dtype}")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"pixels that are floats lie in [0, 1], and these from {low:g} to {high:g}")
    if image.shape[-1] == 4 or image.shape[-1] != channels:
        raise ValueError(f"pixels that are floats have the model's {channels} channels, not {image.shape[-1]}")
    if image.shape == out.shape:
        out[...] = image
        return
    # As `fit` takes it: in steps of 1, not rounded.
    fit(image.astype(np.float32) * np.float32(255), out.shape[:2], settings.geometry, out)
