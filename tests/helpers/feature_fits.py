"""Features of classes, and what a fit makes of them."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from scipy.special import logsumexp

from odin_beam.transforms.fitting.bank import Bank
from odin_beam.transforms.fitting.clip import FeatureHistogram
from odin_beam.transforms.fitting.feature_rows import LastLayerWeights
from odin_beam.transforms.fitting.moments import Moments
from odin_beam.transforms.fitting.reference import Reference, fit_reference
from odin_beam.transforms.fitting.residual import vim_residual_sum, vim_subspace
from odin_beam.transforms.model.classifier import Classifier
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.settings_json import to_json


class Images(NamedTuple):
    """Features float32 [N, D] of labels [N], and the dense layer that makes logits float32 [N, K] of them."""

    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray

    @property
    def predictions(self) -> np.ndarray:
        return self.logits.argmax(axis=1)

    def with_features(self, features: np.ndarray) -> "Images":
        """The same with other features, and their logits."""
        features = features.astype(np.float32)
        return self._replace(features=features, logits=(features @ self.kernel + self.bias).astype(np.float32))


def images(count: int = 400, classes: int = 5, width: int = 12, seed: int = 0) -> Images:
    """Features behind a ReLU; the weights are those of the class means, so that most predictions are right."""
    layer, rng = np.random.default_rng(7), np.random.default_rng(seed)
    means = layer.normal(0, 2, (classes, width))
    labels = rng.integers(0, classes, count)
    features = np.maximum(means[labels] + rng.normal(size=(count, width)) + 1, 0)
    bias = layer.normal(size=classes).astype(np.float32)
    empty = Images(features, features, labels, means.T.astype(np.float32), bias)
    return empty.with_features(features)


def images_of(classifier: Classifier, pixels: np.ndarray) -> Images:
    """Images float32 [N, H, W, C] as a classifier with a dense last layer sees them; their labels are predictions."""
    found = classifier.activations(tf.constant(pixels))
    features, logits, kernel, bias = (
        np.asarray(tensor) for tensor in (found.features, found.logits, found.kernel, found.bias)
    )
    return Images(features, logits, logits.argmax(axis=1), kernel, bias)


def about(settings: ScoreSettings) -> dict:
    """What a reference says about the fit that made it, if that fed the model as the settings do."""
    names = ("model_digest", "preprocessing", "geometry", "output_name", "model_factory", "precision")
    return {name: to_json(getattr(settings, name)) for name in names}


def fit(of: Images, rows: int = 200, **about) -> Reference:
    """The reference of these images, with a bank of so many rows."""
    classes, width = of.kernel.shape[1], of.kernel.shape[0]
    moments, histogram, bank = Moments(classes, width), FeatureHistogram(), Bank(classes, width, rows)
    moments.add(of.features, of.logits, of.labels, of.predictions)
    histogram.add(of.features)
    numbers = np.arange(len(of.labels)).astype(np.uint64)
    bank.add(of.features, logsumexp(of.logits, axis=1), of.labels, numbers, numbers)
    subspace = vim_subspace(moments, of.kernel, of.bias)
    residuals = 0.0 if subspace is None else vim_residual_sum(of.features, *subspace)
    return fit_reference(moments, histogram, bank, LastLayerWeights(of.kernel, of.bias), subspace, residuals, about)


def comparable(reference: Reference) -> dict[str, np.ndarray]:
    """The arrays of a reference; of axes, whose signs rounding decides, what does not depend on the signs."""
    return {
        name: array @ array.T if name.endswith((".between", ".basis")) else array
        for name, array in reference.arrays().items()
    }
