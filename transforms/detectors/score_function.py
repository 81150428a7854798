"""From pixels to score columns: ODIN and the detectors on the clean forward pass, compiled for one classifier.

    score = ScoreFunction(classifier, OdinSettings(1000, 0.0014), ("odin", "msp"))
    scored = score(pixels)
    scored.columns["odin"]

A grid of settings shares as much work as possible: one clean forward pass, one input-gradient per temperature, one
forward pass per temperature and epsilon above 0.
"""

import copy
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from odin_beam.transforms.detectors import odin, registry
from odin_beam.transforms.detectors.leave_class_out import leave_class_out
from odin_beam.transforms.detectors.odin_settings import OdinGrid, OdinSettings
from odin_beam.transforms.detectors.passes import Passes, PassTimes, score_cells
from odin_beam.transforms.detectors.reference_tensors import ReferenceTensors
from odin_beam.transforms.errors import FeatureReferenceError
from odin_beam.transforms.fitting.reference import Reference
from odin_beam.transforms.forward import batch_parts
from odin_beam.transforms.forward.forward_pass import forward_pass
from odin_beam.transforms.model import device
from odin_beam.transforms.model.classifier import Classifier

_LOG = logging.getLogger(__name__)


class Scored(NamedTuple):
    """A batch's scores, and the passes they took.

    Attributes:
      columns: `prediction` int32 [N]; `finite` bool [N], False for an image with a NaN or infinite logit, whose other
        columns are meaningless; and one float64 [N] per score.
      passes: number of passes, summed over the images.
    """

    columns: dict[str, np.ndarray]
    passes: Passes


def joined(parts: Sequence[Scored]) -> Scored:
    """Concatenates one or more consecutive batches."""
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Scored(columns, Passes(*map(sum, zip(*(part.passes for part in parts), strict=True))))


def unavailable(classifier: Classifier, reference: Reference | None, names: Iterable[str]) -> dict[str, str]:
    """Detector -> why it has no scores, for those of the names that have none.

    Raises:
      FeatureReferenceError: the reference is of another number of features or classes than the last layer.
    """
    names = list(names)
    reasons = dict.fromkeys(classifier.unavailable(names), "not available for this model's head")
    fitted = [name for name in names if name in registry.FITTED_DETECTORS and name not in reasons]
    if reference is None:
        return reasons | dict.fromkeys(fitted, "needs a reference")
    if fitted:
        refuse_other_shape(reference, classifier.last_layer.kernel.shape)
    return reasons | {name: reference.unavailable[name] for name in fitted if name in reference.unavailable}


def refuse_other_shape(reference: Reference, layer: Sequence[int]) -> None:
    """Checks that a reference fits the last layer.

    Args:
      reference: of a fit.
      layer: (D, K), shape of the layer's kernel.

    Raises:
      FeatureReferenceError: the reference is of another number of features or classes.
    """
    width, classes = layer
    parts = [part.offsets for part in (reference.distances, reference.unit_distances) if part is not None]
    parts += [] if reference.she_counts is None else [reference.she_counts]
    if len(reference.mean) != width:
        what, there = "features", len(reference.mean)
    elif others := [len(part) for part in parts if len(part) != classes]:
        what, there, width = "classes", others[0], classes
    else:
        return
    raise FeatureReferenceError(f"the reference is of {there:,} {what}, the model's last layer of {width:,}")


class ScoreFunction:
    """Pixels -> columns, for one classifier; one graph for every batch size.

    Args:
      classifier: with its preprocessing.
      settings: temperature and epsilon, or a grid of them: then each cell has its own column, see `OdinGrid`.
      chosen: detectors to compute, from `registry.ALL`. Without `odin` there is no perturbation. Those that are
        `unavailable` are left out.
      precision: one of `precisions.PRECISIONS`.
      batch_size: on a GPU, smaller batches are padded to this size: XLA compiles anew for each number of images.
      reference: for the fitted detectors; None without them.
      with_features: whether there is a column `features`, float32 [N, D], the input of the last dense layer.

    Raises:
      FeatureReferenceError: the reference is of another number of features or classes.
      odin.NoGradient: epsilon is above 0, and no gradient reaches the pixels.
    """

    def __init__(
        self,
        classifier: Classifier,
        settings: OdinSettings | OdinGrid,
        chosen: tuple[str, ...],
        precision: str = "float32",
        batch_size: int = 1,
        reference: Reference | None = None,
        with_features: bool = False,
    ):
        missing = unavailable(classifier, reference, chosen)
        self._classifier = classifier
        self._forward = forward_pass(classifier, precision)
        self.batch_size = batch_size
        self._with_features = with_features
        self._at_once = batch_parts.images_per_part(
            classifier.input_shape, 32 if precision == "float32" else 16, self._forward.work
        )
        self._pool = ThreadPoolExecutor(device.cores(), "score")
        self._detectors = [registry.ALL[name] for name in chosen if registry.ALL[name].function and name not in missing]
        # On the device once, for all graphs and batches.
        self._reference = None if reference is None else ReferenceTensors(reference)
        self._cells = score_cells(settings) if "odin" in chosen else {}
        self._readable = isinstance(settings, OdinSettings)
        self._temperatures = list(dict.fromkeys(c.temperature for c in self._cells.values() if c.epsilon > 0))
        self._clean_passes = self.passes = Passes(0, 0)
        self._trace(device.on_gpu())

    def without_predicted_class(self) -> "ScoreFunction":
        """The same for a classifier that lacks, for each image, the class that it predicts; see `leave_class_out`."""
        other = copy.copy(self)
        other._forward = leave_class_out(self._forward)
        other._trace(device.on_gpu())
        return other

    @property
    def as_loaded(self) -> str | None:
        """Why the model runs as it was loaded, not in its fastest form; None if it does not."""
        return self._forward.as_loaded

    def _trace(self, xla: bool) -> None:
        classifier = self._classifier
        pixels = tf.TensorSpec([None, *classifier.input_shape], tf.float32)
        logits = tf.TensorSpec([None, classifier.classes], tf.float32)
        scalar = tf.TensorSpec([], tf.float64)

        def traced(function: Callable, *signature: tf.TensorSpec) -> tf.types.experimental.ConcreteFunction:
            compiled = tf.function(function, input_signature=signature, autograph=False, jit_compile=xla or None)
            # Tracing shows whether there is a gradient; better now than at the first image. And calling the concrete
            # graph starts in half the time of a call of the function, which has to look the graph up.
            return compiled.get_concrete_function()

        self._clean = traced(self._clean_columns, pixels)
        if self._temperatures:
            self._perturbed = traced(self._perturbed_columns, pixels, pixels, scalar, scalar)
        if any(cell.epsilon == 0 for cell in self._cells.values()):
            self._unperturbed = traced(self._odin_columns, logits, scalar)
        forward, gradient = self._clean_passes
        self.passes = Passes(forward + sum(cell.epsilon > 0 for cell in self._cells.values()), gradient)
        if xla:
            try:
                self(np.zeros((1, *classifier.input_shape), np.float32))
            except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError, tf.errors.InternalError) as e:
                _LOG.info("XLA cannot compile the model: %s", e.message)
                self._trace(xla=False)
            except tf.errors.ResourceExhaustedError:
                # Out of memory at this batch size; the caller retries with a smaller one.
                pass

    def __call__(self, pixels: np.ndarray | tf.Tensor, advance: Callable[[float], None] = lambda share: None) -> Scored:
        """Scores a batch.

        Args:
          pixels: float32 [N, H, W, C] in [0, 1], N >= 1; on the device already, or copied there.
          advance: called during the work with the share of it done since the last call.
        """
        lock = threading.Lock()

        def score(part: np.ndarray) -> Scored:
            def advance_part(share: float) -> None:
                with lock:
                    advance(share * len(part) / len(pixels))

            return self._score(part, advance_part)

        return joined(batch_parts.compute(score, batch_parts.split(pixels, self._at_once), self._pool))

    def _score(self, pixels: np.ndarray | tf.Tensor, advance: Callable[[float], None]) -> Scored:
        n, pixels, all_passes = len(pixels), tf.convert_to_tensor(pixels), sum(self.passes)
        if device.on_gpu() and n < self.batch_size:
            pixels = tf.pad(pixels, [[0, self.batch_size - n], [0, 0], [0, 0], [0, 0]])
        columns, logits, signs = self._clean(pixels)
        forward, gradient = self._clean_passes
        advance((forward + gradient) / all_passes)
        finite = [columns.pop("finite")]
        signs = dict(zip(self._temperatures, signs, strict=True))
        for name, cell in self._cells.items():
            epsilon, temperature = (tf.constant(value, tf.float64) for value in (cell.epsilon, cell.temperature))
            if cell.epsilon > 0:
                scores = self._perturbed(pixels, signs[cell.temperature], epsilon, temperature)
                forward += 1
            else:
                scores = self._unperturbed(logits, temperature)
            finite.append(scores["finite"])
            columns[name] = scores["odin"]
            if self._readable:
                columns["odin_logit"] = scores["odin_logit"]
            # Work queued on a device is not yet done; a score that has been fetched is.
            columns[name] = columns[name].numpy()
            advance((cell.epsilon > 0) / all_passes)
        columns["finite"] = np.logical_and.reduce([np.asarray(flags) for flags in finite])
        arrays = {name: np.asarray(column)[:n] for name, column in columns.items()}
        return Scored(arrays, Passes(forward * n, gradient * n))

    def time_passes(self, pixels: np.ndarray) -> PassTimes:
        """Measures the passes on some images, after a warm-up run.

        Args:
          pixels: float32 [N, H, W, C] in [0, 1], N >= 1.
        """
        one, parts, seconds = tf.constant(1.0, tf.float64), batch_parts.split(pixels, self._at_once), {}
        steps = {"clean": lambda part: self._clean(tf.convert_to_tensor(part))[1].numpy()}
        if self._temperatures:
            steps["perturbed"] = lambda part: self._perturbed(part, tf.zeros_like(part), one, one)["odin"].numpy()
        for name, step in steps.items():
            batch_parts.compute(step, parts, self._pool)
            started = time.perf_counter()
            batch_parts.compute(step, parts, self._pool)
            seconds[name] = (time.perf_counter() - started) / len(pixels)
        forward = seconds.get("perturbed", seconds["clean"])
        gradient = max(0.0, seconds["clean"] - forward) / max(1, len(self._temperatures))
        return PassTimes(forward, gradient)

    def _clean_columns(self, pixels: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor, list[tf.Tensor]]:
        """The results of the clean forward pass: columns, logits, and the gradient's sign for each temperature."""
        passes = []

        def forward(inputs: tf.Tensor) -> tf.Tensor:
            passes.append(self._forward.activations(inputs))
            return passes[-1].logits

        logits, signs = odin.gradient_signs(forward, pixels, self._temperatures)
        self._clean_passes = Passes(len(passes), len(signs))
        columns = {detector.name: detector(passes[0], self._reference) for detector in self._detectors}
        columns["prediction"] = tf.argmax(logits, axis=1, output_type=tf.int32)
        columns["finite"] = tf.reduce_all(tf.math.is_finite(logits), axis=1)
        if self._with_features:
            columns["features"] = passes[0].features
            columns["finite"] &= tf.reduce_all(tf.math.is_finite(passes[0].features), axis=1)
        return columns, logits, signs

    def _perturbed_columns(
        self, pixels: tf.Tensor, sign: tf.Tensor, epsilon: tf.Tensor, temperature: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        return self._odin_columns(self._forward.activations(odin.perturbed(pixels, sign, epsilon)).logits, temperature)

    def _odin_columns(self, logits: tf.Tensor, temperature: tf.Tensor) -> dict[str, tf.Tensor]:
        return {
            "odin": odin.max_softmax(logits, temperature),
            "odin_logit": odin.score_logit(logits, temperature),
            "finite": tf.reduce_all(tf.math.is_finite(logits), axis=1),
        }
