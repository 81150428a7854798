"""Scores features that a run kept, with the detectors that need nothing else of an image.

scorer = FeatureScorer(settings, "/data/scores")
scorer.score(features)["knn"]
"""

import threading
import time

import numpy as np
import tensorflow as tf

from odin_beam.transforms.detectors.reference_tensors import ReferenceTensors
from odin_beam.transforms.detectors.registry import ALL, FITTED_DETECTORS
from odin_beam.transforms.detectors.score_function import refuse_other_shape
from odin_beam.transforms.fitting.feature_rows import read_last_layer
from odin_beam.transforms.model.activations import Activations
from odin_beam.transforms.scoring.own_reference import read_own_reference
from odin_beam.transforms.scoring.settings import ScoreSettings

# Images at once: products with a bank of 10,000 rows take 20 MB.
ROWS_AT_ONCE = 256


class FeatureScorer:
    """The last layer and the reference: one per process, shared by all of Beam's threads. It takes no GPU.

    Args:
      settings: which detectors, and their reference.
      folder: of the run that kept the features, for the last layer's weights.

    Raises:
      FeatureReferenceError: the reference has changed, or does not fit the last layer.
      StorageError: the reference or the weights cannot be read.
    """

    def __init__(self, settings: ScoreSettings, folder: str):
        started = time.monotonic()
        weights, reference = read_last_layer(folder), read_own_reference(settings)
        self.width = len(weights.kernel)
        # Detectors that were chosen but have no scores, and why; their columns are null.
        self.unavailable: dict[str, str] = {}
        if reference is not None:
            refuse_other_shape(reference, weights.kernel.shape)
            chosen = [name for name in settings.detectors if name in FITTED_DETECTORS]
            self.unavailable = {name: reference.unavailable[name] for name in chosen if name in reference.unavailable}
        computed = [ALL[name] for name in settings.detectors if name not in self.unavailable]
        self._detectors = [detector for detector in computed if detector.takes_features]
        self._lock = threading.Lock()
        with tf.device("/CPU:0"):
            self._reference = None if reference is None else ReferenceTensors(reference)
            self._weights = [tf.constant(array) for array in weights]
            signature = [tf.TensorSpec([None, self.width], tf.float32)]
            function = tf.function(self._columns, input_signature=signature, autograph=False)
            self._score = function.get_concrete_function()
        self.load_milliseconds = int(1000 * (time.monotonic() - started))

    def score(self, features: np.ndarray) -> dict[str, np.ndarray]:
        """Detector -> float64 [N]; NaN for an image for which it is not defined.

        Args:
          features: float32 [N, D], finite.
        """
        with self._lock, tf.device("/CPU:0"):
            columns = self._score(tf.constant(features))
            return {name: column.numpy() for name, column in columns.items()}

    def _columns(self, features: tf.Tensor) -> dict[str, tf.Tensor]:
        kernel, bias = self._weights
        with tf.device("/CPU:0"):
            # In float32, as the model has it: most logits are then equal to the last bit.
            logits = tf.matmul(features, kernel) + bias
            activations = Activations(logits, features, None, kernel, bias)
            return {detector.name: detector(activations, self._reference) for detector in self._detectors}
