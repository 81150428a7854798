"""The classifier and its device: one per process, shared by all of Beam's threads."""

import collections
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from odin_beam.transforms.detectors.odin import NoGradient
from odin_beam.transforms.detectors.passes import Passes, PassTimes
from odin_beam.transforms.detectors.score_function import Scored, ScoreFunction, joined, unavailable
from odin_beam.transforms.errors import ClassifierError, OutOfMemory
from odin_beam.transforms.fitting.feature_rows import LastLayerWeights
from odin_beam.transforms.images.decoding import ignore_pillow_warnings
from odin_beam.transforms.model import device
from odin_beam.transforms.model.classifier import Classifier, load_classifier
from odin_beam.transforms.scoring.own_reference import read_own_reference
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.contents.image_list import FETCHES_AT_ONCE

_LOG = logging.getLogger(__name__)
# The result of an empty batch, which some layers would refuse.
_NONE = Scored({"prediction": np.empty(0, np.int32), "finite": np.empty(0, bool)}, Passes(0, 0))


def load_settings_classifier(settings: ScoreSettings) -> Classifier:
    """The classifier that the settings name.

    Raises:
      ClassifierError: the model cannot be used.
    """
    return load_classifier(
        settings.model,
        settings.preprocessing,
        settings.geometry.image_size,
        settings.output_name,
        settings.model_factory,
    )


def last_layer_weights(classifier: Classifier) -> LastLayerWeights:
    """The weights that make the classifier's logits of its features.

    Raises:
      ClassifierError: it does not end in a dense layer that can be inspected.
    """
    layer = classifier.last_layer
    if layer is None:
        raise ClassifierError(
            "features and fitted detectors need a model that ends in a dense layer with its weights, then at most a "
            "softmax; this one does not"
        )
    kernel = np.asarray(layer.kernel, np.float32)
    bias = np.zeros(kernel.shape[1], np.float32) if layer.bias is None else np.asarray(layer.bias, np.float32)
    return LastLayerWeights(kernel, bias)


class ScoredBatch(NamedTuple):
    """The result of scoring a batch.

    Attributes:
      scored: the columns and passes.
      halved: how many times the batch was retried in halves.
      microseconds: how long the device was busy with the batch.
    """

    scored: Scored
    halved: int
    microseconds: int


class PixelBuffers:
    """Reusable memory for batches of pixels: allocating it takes a tenth of the time of decoding a JPEG.

    Args:
      shape: of a full batch.
    """

    def __init__(self, shape: tuple[int, ...]):
        self._shape = shape
        self._free = collections.deque()

    def take(self) -> np.ndarray:
        """A float32 array of that shape with arbitrary content."""
        try:
            return self._free.pop()
        except IndexError:
            return np.empty(self._shape, np.float32)

    def give_back(self, pixels: np.ndarray) -> None:
        """Takes back an array from `take` that is no longer used."""
        self._free.append(pixels)


class Scorer:
    """The classifier and its device: one per process, shared by all of Beam's threads.

    Args:
      settings: which model, and what to compute.

    Raises:
      ClassifierError: the model cannot be used.
      FeatureReferenceError: the reference has changed, or does not fit the model.
      StorageError: the reference cannot be read.
    """

    def __init__(self, settings: ScoreSettings):
        started = time.monotonic()
        self._settings = settings
        ignore_pillow_warnings()
        # First, since a wrong file is found sooner than a model is loaded.
        reference = read_own_reference(settings)
        self.classifier = load_settings_classifier(settings)
        classes = self.classifier.classes
        if settings.class_names is not None and len(settings.class_names) != classes:
            raise ClassifierError(f"`class_names` has {len(settings.class_names)} names, the model {classes} classes")
        # Detectors that were chosen but have no scores, and why; their columns are null.
        self.unavailable = unavailable(self.classifier, reference, settings.detectors)
        self.load_milliseconds = int(1000 * (time.monotonic() - started))
        self.decoders = ThreadPoolExecutor(max(1, os.cpu_count() or 1), "decode")
        self.fetchers = ThreadPoolExecutor(FETCHES_AT_ONCE, "fetch")
        self.buffers = PixelBuffers((settings.batch_size, *self.classifier.input_shape))
        # Images that the device takes at once; halved when they exhaust its memory.
        self.batch_size = settings.batch_size
        # This process's progress; written under the device's lock, read by the progress display.
        self.images = 0.0
        self._device = threading.Lock()
        self._without_class: ScoreFunction | None = None
        with_features = settings.features_type is not None
        if with_features:
            last_layer_weights(self.classifier)
        try:
            self._score = ScoreFunction(
                self.classifier,
                settings.odin,
                settings.detectors,
                settings.precision,
                self.batch_size,
                reference,
                with_features,
            )
        except NoGradient as e:
            raise ClassifierError(f"{e}: score with `epsilon` 0") from e

    @property
    def as_loaded(self) -> str | None:
        """See `ScoreFunction.as_loaded`."""
        return self._score.as_loaded

    def time_passes(self, pixels: np.ndarray) -> PassTimes:
        """How long a pass takes on this device; see `ScoreFunction.time_passes`."""
        with self._device:
            return self._score.time_passes(pixels)

    def on_device(self, pixels: np.ndarray) -> np.ndarray | tf.Tensor:
        """A batch in the form `score` handles fastest: on a GPU it is copied there while another batch is scored."""
        return tf.convert_to_tensor(pixels) if device.on_gpu() and len(pixels) else pixels

    def score(self, pixels: np.ndarray | tf.Tensor, leave_class_out: bool = False) -> ScoredBatch:
        """The columns of a batch; without scores if N = 0.

        A batch that exhausts the device's memory is retried in halves, and all later batches use the smaller size.

        Args:
          pixels: float32 [N, H, W, C] in [0, 1], N >= 0.
          leave_class_out: whether the classifier lacks, for each image, the class that it predicts.

        Raises:
          OutOfMemory: a single image exhausts the memory.
        """
        with self._device:
            parts, done, halved, started = [], 0, 0, time.monotonic()
            while done < len(pixels):
                part = pixels[done : done + self.batch_size]
                try:
                    parts.append(self._score_part(part, leave_class_out))
                    done += len(part)
                except tf.errors.ResourceExhaustedError as e:
                    self._halve(len(part), e)
                    halved += 1
            scored = joined(parts) if parts else _NONE
            return ScoredBatch(scored, halved, round(1e6 * (time.monotonic() - started)))

    def _score_part(self, pixels: np.ndarray, leave_class_out: bool) -> Scored:
        before = self.images
        if leave_class_out and self._without_class is None:
            self._without_class = self._score.without_predicted_class()
        function = self._without_class if leave_class_out else self._score
        function.batch_size = self.batch_size

        def advance(share: float) -> None:
            self.images += share * len(pixels)

        try:
            return function(pixels, advance)
        except tf.errors.ResourceExhaustedError:
            self.images = before
            raise

    def _halve(self, tried: int, error: Exception) -> None:
        if tried == 1:
            raise OutOfMemory("a single image exhausts the memory of the device that the model is on") from error
        if self.batch_size == self._settings.batch_size:
            _LOG.warning(
                "%d images at once exhaust the device's memory: continuing with halves; give a smaller batch_size",
                tried,
            )
        self.batch_size = tried // 2
