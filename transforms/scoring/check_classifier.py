"""Is a classifier understood? What can be read off the model, and what only images can prove.

Wrong preprocessing does not show in the confidence of the predictions: bytes fed to a model of [0, 1] pixels give
10 % accuracy at a mean confidence of 1.000. What shows it is comparing candidates on labelled images.
"""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from odin_beam.transforms.detectors.odin import OdinSettings, backward_seed, max_softmax
from odin_beam.transforms.detectors.score_function import ScoreFunction
from odin_beam.transforms.forward import batch_parts
from odin_beam.transforms.model.classifier import NAMED_PREPROCESSING, Classifier, Preprocessing
from odin_beam.transforms.model.saved_model import SavedModel

# Standard errors of the difference of two accuracies beyond which the lower one is clearly worse.
CLEARLY_WORSE = 3.0
# An effective number of predicted classes below this share of what to expect counts as collapsed.
COLLAPSED_SHARE = 0.25
# Accuracy within this many standard errors of 1/K counts as chance.
CHANCE = 3.0
_BATCH = 32
_SHEET_SIDE = 96


@dataclass(frozen=True, eq=False)
class Trial:
    """One preprocessing, tried on images.

    Attributes:
      preprocessing: what was tried.
      predictions: int64 [N].
      correct: bool [L], of the L labelled images in their order.
      confidence: mean maximum softmax probability.
    """

    preprocessing: Preprocessing
    predictions: np.ndarray
    correct: np.ndarray
    confidence: float

    @property
    def accuracy(self) -> float | None:
        """Share of the labelled images predicted right; None without labels."""
        return float(self.correct.mean()) if len(self.correct) else None

    @property
    def spread(self) -> float:
        """Effective number of predicted classes: the exponential of the predictions' entropy, 1 to K."""
        return effective_classes(self.predictions)


def effective_classes(classes: np.ndarray) -> float:
    """Exponential of the entropy of a class histogram: K for K equally frequent classes, 1 for a single one.

    Args:
      classes: int [N], N >= 1.
    """
    shares = np.unique(classes, return_counts=True)[1] / len(classes)
    return float(np.exp(-np.sum(shares * np.log(shares))))


def own_preprocessing(model: keras.Model | SavedModel) -> tuple[str | None, Preprocessing | None]:
    """What the model's own normalising layer asks of its input.

    Args:
      model: a Keras model; nested models are looked into, a SavedModel cannot be.

    Returns:
      (the layer in words, the preprocessing that it asks for), or (None, None) where there is no such layer before the
      first convolution or dense layer. `Rescaling` by 1/127.5 or 1/255 asks for bytes. So does `Normalization` with
      a mean above 2; with a smaller one it asks for [0, 1].
    """
    for layer in [] if isinstance(model, SavedModel) else _flat_layers(model):
        if isinstance(layer, keras.layers.Rescaling):
            scale, offset = float(np.max(layer.scale)), float(np.max(layer.offset))
            return f"Rescaling({scale:.6g}, {offset:.6g})", Preprocessing("byte" if scale < 0.1 else "unit")
        if isinstance(layer, keras.layers.Normalization):
            mean = np.ravel(keras.ops.convert_to_numpy(layer.mean)) if layer.mean is not None else np.zeros(1)
            return f"Normalization(mean {_numbers(mean)})", Preprocessing("byte" if mean.max() > 2 else "unit")
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense | keras.layers.DepthwiseConv2D):
            break
    return None, None


def _flat_layers(model: keras.Model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flat_layers(layer)
        else:
            yield layer


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in values[:4])


def candidates(channels: int, *further: Preprocessing | None) -> list[Preprocessing]:
    """The preprocessings worth trying: every named one that the channels allow, and the further ones; none twice."""
    named = [candidate for candidate in map(Preprocessing, NAMED_PREPROCESSING) if channels in candidate.channels()]
    return list(dict.fromkeys([*named, *(extra for extra in further if extra is not None)]))


def compiled(classifier: Classifier) -> Classifier:
    """The same classifier with its model as one graph, which pays from the second batch on."""
    signature = [tf.TensorSpec([None, *classifier.input_shape], tf.float32)]
    return replace(
        classifier, model_logits=tf.function(classifier.model_logits, input_signature=signature, autograph=False)
    )


def try_preprocessing(
    classifier: Classifier, preprocessing: Preprocessing, pixels: np.ndarray, labels: np.ndarray
) -> Trial:
    """Classifies images under one preprocessing.

    Args:
      classifier: of any preprocessing; the model behind it is used under the one to try.
      preprocessing: to try.
      pixels: float32 [N, H, W, C] in [0, 1], N >= 1.
      labels: int64 [N], -1 where an image has none.
    """
    other = classifier.preprocessed(preprocessing)
    with ThreadPoolExecutor(batch_parts.cores()) as pool:
        logits = np.concatenate(
            list(pool.map(lambda batch: other.logits(tf.constant(batch)).numpy(), _batches(pixels)))
        )
    predictions, labelled = logits.argmax(axis=1), labels >= 0
    confidence = float(tf.reduce_mean(max_softmax(tf.constant(logits), 1.0)))
    return Trial(preprocessing, predictions, (predictions == labels)[labelled], confidence)


def _batches(pixels: np.ndarray):
    return (pixels[i : i + _BATCH] for i in range(0, len(pixels), _BATCH))


def clearly_worse(trial: Trial, other: Trial) -> bool:
    """Whether a trial's accuracy is below another's on the same images by more than chance (McNemar's test)."""
    only_other = int(np.sum(other.correct & ~trial.correct))
    only_this = int(np.sum(trial.correct & ~other.correct))
    return only_other - only_this > CLEARLY_WORSE * math.sqrt(max(1, only_other + only_this))


def best(trials: list[Trial], preferred: Preprocessing | None) -> Trial:
    """The trial of the highest accuracy; the preferred one, or the first, where it is not clearly worse than that."""
    top = max(trials, key=lambda trial: trial.accuracy)
    wanted = [trial for trial in trials if trial.preprocessing == preferred] or [top]
    return top if clearly_worse(wanted[0], top) else wanted[0]


def is_collapsed(trial: Trial, classes: int, labels: np.ndarray) -> bool:
    """Whether the predictions fall into far fewer classes than the labels, or without labels than there could be."""
    labelled = labels[labels >= 0]
    expected = effective_classes(labelled) if len(labelled) else min(classes, len(trial.predictions) / 4)
    return expected >= 2 and trial.spread < max(1.5, COLLAPSED_SHARE * expected)


def is_at_chance(trial: Trial, classes: int) -> bool:
    """Whether the accuracy cannot be told from guessing, 1/K."""
    if not len(trial.correct):
        return False
    error = math.sqrt((1 / classes) * (1 - 1 / classes) / len(trial.correct))
    return trial.accuracy < 1 / classes + CHANCE * error


@dataclass(frozen=True)
class Soundness:
    """What ODIN needs of a classifier, measured on one batch.

    Attributes:
      gradient_share: share of the pixels whose gradient is not 0.
      repeatable: the same batch twice gives the same logits to the bit.
      alone_difference: largest relative difference between an image's logits alone and in a batch.
      images_per_second: of the whole method at epsilon > 0, after warming up.
    """

    gradient_share: float
    repeatable: bool
    alone_difference: float
    images_per_second: float


def measure_soundness(classifier: Classifier, pixels: np.ndarray, settings: OdinSettings) -> Soundness:
    """Measures it on the first images.

    Args:
      classifier: with the preprocessing to use.
      pixels: float32 [N, H, W, C] in [0, 1], N >= 1.
      settings: temperature; epsilon only matters to the speed.
    """
    batch = tf.constant(pixels[:_BATCH])
    logits = classifier.logits(batch).numpy()
    again = classifier.logits(batch).numpy()
    alone = classifier.logits(batch[:1]).numpy()
    scale = np.abs(logits[0]).max() or 1.0
    return Soundness(
        gradient_share=gradient_share(classifier, pixels, settings),
        repeatable=bool(np.array_equal(logits, again)),
        alone_difference=float(np.abs(alone[0] - logits[0]).max() / scale),
        images_per_second=_speed(classifier, pixels[:_BATCH], settings),
    )


def gradient_share(classifier: Classifier, pixels: np.ndarray, settings: OdinSettings) -> float:
    """Share of the first images' pixels to which a gradient that is not 0 comes back.

    Args:
      classifier: with the preprocessing to use.
      pixels: float32 [N, H, W, C] in [0, 1], N >= 1.
      settings: temperature.
    """
    batch = tf.constant(pixels[:_BATCH])
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(batch)
        logits = classifier.logits(batch)
    gradient = tape.gradient(logits, batch, output_gradients=backward_seed(logits, settings.temperature))
    return 0.0 if gradient is None else float(tf.reduce_mean(tf.cast(gradient != 0, tf.float32)))


def _speed(classifier: Classifier, pixels: np.ndarray, settings: OdinSettings, rounds: int = 3) -> float:
    timed = OdinSettings(settings.temperature, settings.epsilon or OdinSettings().epsilon)
    score = ScoreFunction(classifier, timed, ("odin",))
    score(pixels)
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        score(pixels)
        seconds.append(time.perf_counter() - started)
    return len(pixels) / sorted(seconds)[rounds // 2]


def contact_sheet(classifier: Classifier, pixels: np.ndarray, columns: int = 8, rows: int = 8) -> Image.Image:
    """Some of the images as the model's first layer sees them, the sheet's range stretched to black and white.

    A channel order or a range that is wrong for the model shows as false colours or as clipped tones.

    Args:
      classifier: with the preprocessing to show.
      pixels: float32 [N, H, W, C] in [0, 1]; those shown lie evenly among them.
      columns: of the sheet.
      rows: of the sheet, at most.
    """
    shown = pixels[:: max(1, len(pixels) // (columns * rows))][: columns * rows]
    seen = classifier.preprocessing.apply(tf.constant(shown)).numpy()
    low, high = float(seen.min()), float(seen.max())
    grey = np.uint8(np.clip((seen - low) / ((high - low) or 1.0) * 255, 0, 255))
    sheet = Image.new("RGB", (columns * (_SHEET_SIDE + 2), -(-len(grey) // columns) * (_SHEET_SIDE + 2)), "white")
    for i, image in enumerate(grey):
        tile = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).resize((_SHEET_SIDE, _SHEET_SIDE), 0)
        sheet.paste(tile, ((i % columns) * (_SHEET_SIDE + 2) + 1, (i // columns) * (_SHEET_SIDE + 2) + 1))
    return sheet
