"""Tries preprocessings on images, to see which one is right, and whether any is.

Wrong preprocessing does not show in the confidence of the predictions: bytes fed to a model of [0, 1] pixels give
10 % accuracy at a mean confidence of 1.000. Comparing candidates on labelled images reveals it.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from odin_beam.transforms.detectors.odin import max_softmax
from odin_beam.transforms.model import device
from odin_beam.transforms.model.classifier import Classifier
from odin_beam.transforms.model.preprocessing import NAMED_PREPROCESSING, Preprocessing

# Standard errors of the difference of two accuracies beyond which the lower accuracy is clearly worse.
CLEARLY_WORSE = 3.0
# Predictions have collapsed if their effective number of classes is below this share of the expected number.
COLLAPSED_SHARE = 0.25
# Accuracy within this many standard errors of 1/K counts as chance.
CHANCE = 3.0
BATCH = 32


@dataclass(frozen=True, eq=False)
class Trial:
    """One preprocessing, tried on images.

    Attributes:
      preprocessing: the preprocessing tried.
      predictions: int64 [N].
      correct: bool [L], for the L labelled images in their order.
      confidence: mean maximum softmax probability.
    """

    preprocessing: Preprocessing
    predictions: np.ndarray
    correct: np.ndarray
    confidence: float

    @property
    def accuracy(self) -> float | None:
        """Share of the labelled images predicted correctly; None without labels."""
        return float(self.correct.mean()) if len(self.correct) else None

    @property
    def spread(self) -> float:
        """Effective number of predicted classes: the exponential of the predictions' entropy, 1 to K."""
        return effective_classes(self.predictions)


def effective_classes(classes: np.ndarray) -> float:
    """Exponential of the entropy of a class histogram: K for K equally frequent classes, 1 for a single class.

    Args:
      classes: int [N], N >= 1.
    """
    shares = np.unique(classes, return_counts=True)[1] / len(classes)
    return float(np.exp(-np.sum(shares * np.log(shares))))


def candidates(channels: int, *further: Preprocessing | None) -> list[Preprocessing]:
    """All named preprocessings that fit the channels, and the further ones, without duplicates."""
    named = [candidate for candidate in map(Preprocessing, NAMED_PREPROCESSING) if channels in candidate.channels()]
    return list(dict.fromkeys([*named, *(extra for extra in further if extra is not None)]))


def compiled(classifier: Classifier) -> Classifier:
    """The same classifier with its model compiled to one graph, which pays off from the second batch on."""
    signature = [tf.TensorSpec([None, *classifier.input_shape], tf.float32)]
    return replace(
        classifier, model_logits=tf.function(classifier.model_logits, input_signature=signature, autograph=False)
    )


def try_preprocessing(
    classifier: Classifier, preprocessing: Preprocessing, pixels: np.ndarray, labels: np.ndarray
) -> Trial:
    """Classifies images with one preprocessing.

    Args:
      classifier: with any preprocessing; it is replaced by the one to try.
      preprocessing: the preprocessing to try.
      pixels: float32 [N, H, W, C] in [0, 1], N >= 1.
      labels: int64 [N], -1 for an image without a label.
    """
    other = classifier.preprocessed(preprocessing)
    with ThreadPoolExecutor(device.cores()) as pool:
        logits = np.concatenate(
            list(pool.map(lambda batch: other.logits(tf.constant(batch)).numpy(), _batches(pixels)))
        )
    predictions, labelled = logits.argmax(axis=1), labels >= 0
    confidence = float(tf.reduce_mean(max_softmax(tf.constant(logits), 1.0)))
    return Trial(preprocessing, predictions, (predictions == labels)[labelled], confidence)


def _batches(pixels: np.ndarray):
    return (pixels[i : i + BATCH] for i in range(0, len(pixels), BATCH))


def clearly_worse(trial: Trial, other: Trial) -> bool:
    """Whether a trial is less accurate than another on the same images by more than chance (McNemar's test)."""
    only_other = int(np.sum(other.correct & ~trial.correct))
    only_this = int(np.sum(trial.correct & ~other.correct))
    return only_other - only_this > CLEARLY_WORSE * math.sqrt(max(1, only_other + only_this))


def without_collapsed(trials: list[Trial], classes: int, labels: np.ndarray) -> list[Trial]:
    """The trials whose predictions have not collapsed; one that has can be more accurate by chance, but never right."""
    return [trial for trial in trials if not is_collapsed(trial, classes, labels)]


def best(trials: list[Trial], preferred: Preprocessing | None) -> Trial:
    """The most accurate trial; or the preferred one, else the first, if it is not clearly worse than that."""
    top = max(trials, key=lambda trial: trial.accuracy)
    choices = [trial for trial in trials if trial.preprocessing == preferred] or [top]
    return top if clearly_worse(choices[0], top) else choices[0]


def is_collapsed(trial: Trial, classes: int, labels: np.ndarray) -> bool:
    """Whether the predictions use far fewer classes than the labels, or, without labels, than expected."""
    labelled = labels[labels >= 0]
    expected = effective_classes(labelled) if len(labelled) else min(classes, len(trial.predictions) / 4)
    return expected >= 2 and trial.spread < max(1.5, COLLAPSED_SHARE * expected)


def is_at_chance(trial: Trial, classes: int) -> bool:
    """Whether the accuracy is indistinguishable from guessing, 1/K."""
    if not len(trial.correct):
        return False
    error = math.sqrt((1 / classes) * (1 - 1 / classes) / len(trial.correct))
    return trial.accuracy < 1 / classes + CHANCE * error


def is_shifted(trial: Trial, labels: np.ndarray) -> bool:
    """Whether most labels are predicted once 1 is taken off them, as if the classes were numbered from 1.

    Args:
      trial: on the same images.
      labels: int64 [N], -1 for an image without a label.
    """
    labelled = labels >= 0
    return bool(labelled.any()) and float((trial.predictions == labels - 1)[labelled].mean()) > 1 / 2
