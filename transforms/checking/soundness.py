"""What ODIN needs from a classifier, measured on one batch of images."""

import time
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from odin_beam.transforms.checking.trials import BATCH
from odin_beam.transforms.detectors.odin import NoGradient, backward_seed
from odin_beam.transforms.detectors.odin_settings import OdinSettings
from odin_beam.transforms.detectors.score_function import ScoreFunction
from odin_beam.transforms.model.classifier import Classifier

# Images whose gradient is looked at: a tape keeps every layer's result, 100 MB per image of a DenseNet.
_GRADIENT_BATCH = 8


@dataclass(frozen=True)
class Soundness:
    """What ODIN needs from a classifier, measured on one batch.

    Attributes:
      gradient_share: share of the pixels whose gradient is not 0.
      repeatable: whether the same batch twice gives bit-identical logits.
      alone_difference: largest relative difference between an image's logits alone and in a batch.
      images_per_second: of the whole method at epsilon > 0, after a warm-up.
      unperturbed_per_second: likewise with epsilon 0, which takes a forward pass alone.
      as_loaded: why the model runs as it was loaded, not in its fastest form; None if it does not.
    """

    gradient_share: float
    repeatable: bool
    alone_difference: float
    images_per_second: float
    unperturbed_per_second: float
    as_loaded: str | None


def measure_soundness(classifier: Classifier, pixels: np.ndarray, settings: OdinSettings) -> Soundness:
    """Measures the soundness on the first images.

    Args:
      classifier: with the preprocessing to use.
      pixels: float32 [N, H, W, C] in [0, 1], N >= 1.
      settings: temperature; epsilon only affects the speed.

    Raises:
      NoGradient: no gradient reaches the pixels.
    """
    share = gradient_share(classifier, pixels, settings)
    if not share:
        raise NoGradient("no gradient reaches the pixels")
    batch = tf.constant(pixels[:BATCH])
    logits = classifier.logits(batch).numpy()
    again = classifier.logits(batch).numpy()
    alone = classifier.logits(batch[:1]).numpy()
    scale = np.abs(logits[0]).max() or 1.0
    speed, unperturbed, as_loaded = _speeds(classifier, pixels[:BATCH], settings)
    return Soundness(
        gradient_share=share,
        repeatable=bool(np.array_equal(logits, again)),
        alone_difference=float(np.abs(alone[0] - logits[0]).max() / scale),
        images_per_second=speed,
        unperturbed_per_second=unperturbed,
        as_loaded=as_loaded,
    )


def gradient_share(classifier: Classifier, pixels: np.ndarray, settings: OdinSettings) -> float:
    """Share of the first eight images' pixels whose gradient is not 0.

    Args:
      classifier: with the preprocessing to use.
      pixels: float32 [N, H, W, C] in [0, 1], N >= 1.
      settings: temperature.
    """
    batch = tf.constant(pixels[:_GRADIENT_BATCH])
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(batch)
        logits = classifier.logits(batch)
    gradient = tape.gradient(logits, batch, output_gradients=backward_seed(logits, settings.temperature))
    return 0.0 if gradient is None else float(tf.reduce_mean(tf.cast(gradient != 0, tf.float32)))


def _speeds(
    classifier: Classifier, pixels: np.ndarray, settings: OdinSettings, rounds: int = 3
) -> tuple[float, float, str | None]:
    """Images per second with the perturbation and without, and why the model runs as it was loaded, if it does."""
    timed = OdinSettings(settings.temperature, settings.epsilon or OdinSettings().epsilon)
    score = ScoreFunction(classifier, timed, ("odin",))
    score(pixels)
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        score(pixels)
        seconds.append(time.perf_counter() - started)
    speed = len(pixels) / sorted(seconds)[rounds // 2]
    return speed, 1 / score.time_passes(pixels).forward, score.as_loaded
