"""Compares fitted detectors with the independent implementation's on 1,500 images, fitted on 10,000 (five minutes).

    .venv/bin/python -m tests.by_hand.check_feature_reference [FEATURES.npz]

The features of the fit are kept in FEATURES.npz, where given, and taken from there the next time. Prints the difference
over the standard deviation of the reference's scores; exit code 1 where more than 1 % of the images differ by 1e-4 or
any by 2e-3.
"""

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image
from scipy.special import logsumexp

from odin_beam.transforms.detectors.reference_tensors import ReferenceTensors
from odin_beam.transforms.detectors.registry import CLEAN_DETECTORS, FITTED_DETECTORS
from odin_beam.transforms.fitting.bank import Bank
from odin_beam.transforms.fitting.clip import FeatureHistogram
from odin_beam.transforms.fitting.feature_rows import LastLayerWeights
from odin_beam.transforms.fitting.moments import Moments
from odin_beam.transforms.fitting.reference import Reference, fit_reference
from odin_beam.transforms.fitting.residual import vim_residual_sum, vim_subspace
from odin_beam.transforms.model.activations import Activations
from odin_beam.transforms.model.classifier import Classifier, load_classifier
from tests.helpers.samples import SHARED_DATA

BATCH, SOURCES = 100, ("in", "out", "near")


def fit_features(classifier: Classifier) -> dict[str, np.ndarray]:
    """`features`, `logits` and file `names` of the training images, in the order of the names."""
    function = tf.function(classifier.activations, autograph=False)
    with tarfile.open(SHARED_DATA / "cifar10_train_10000.tar") as archive:
        members = sorted((member for member in archive if member.isfile()), key=lambda member: member.name)
        files = [archive.extractfile(member).read() for member in members]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files])
    parts = [
        function(tf.constant(x / np.float32(255))) for x in np.split(pixels.astype(np.float32), len(pixels) // BATCH)
    ]
    return {
        "features": np.concatenate([part.features for part in parts]),
        "logits": np.concatenate([part.logits for part in parts]),
        "names": np.array([member.name for member in members]),
    }


def fitted(arrays: dict[str, np.ndarray], kernel: np.ndarray, bias: np.ndarray) -> Reference:
    """The reference of these features, in batches of 1,000, with all of them in the bank."""
    features, logits = arrays["features"], arrays["logits"]
    labels = np.unique([name.split("/")[-2] for name in arrays["names"]], return_inverse=True)[1]
    moments, histogram = Moments(logits.shape[1], features.shape[1]), FeatureHistogram()
    bank = Bank(logits.shape[1], features.shape[1], len(features))
    for rows in np.split(np.arange(len(features)), len(features) // 1000):
        moments.add(features[rows], logits[rows], labels[rows], logits[rows].argmax(axis=1))
        histogram.add(features[rows])
        bank.add(features[rows], logsumexp(logits[rows], axis=1), labels[rows], rows, rows)
    subspace = vim_subspace(moments, kernel, bias)
    return fit_reference(
        moments,
        histogram,
        bank,
        LastLayerWeights(kernel, bias),
        subspace,
        vim_residual_sum(features, *subspace),
    )


def main() -> int:
    """Prints the differences; the exit code says whether they are within the tolerances."""
    classifier = load_classifier(str(SHARED_DATA / "densenet_bc_100_12_cifar10.keras"))
    kernel, bias = classifier.last_layer.kernel, classifier.last_layer.bias
    cache = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    arrays = dict(np.load(cache)) if cache and cache.exists() else fit_features(classifier)
    if cache and not cache.exists():
        np.savez(cache, **arrays)
    reference = fitted(arrays, kernel.numpy(), bias.numpy())
    tensors, failed = ReferenceTensors(reference), False
    with np.load(SHARED_DATA / "feature_reference.npz") as stored:
        print(f"react's limit {float(reference.clip):.7f}, reference {float(stored['react_clip']):.7f}")
        print(f"vim's alpha   {float(reference.residual.alpha):.5f}, reference {float(stored['vim_alpha']):.5f}")
        print("differences over the standard deviation: 99 % quantile, largest")
        for name in ("scale", "ash_b", *(name for name in FITTED_DETECTORS if name != "gen_mds_unit")):
            ours, theirs = [], np.concatenate([stored[f"{source}_{name}"] for source in SOURCES])
            for source in SOURCES:
                logits, features = (
                    tf.constant(stored[f"{source}_{part}"], tf.float32) for part in ("logits", "features")
                )
                detector = FITTED_DETECTORS.get(name) or CLEAN_DETECTORS[name]
                ours.append(detector(Activations(logits, features, None, kernel.value, bias.value), tensors))
            differences = np.abs(np.concatenate(ours) - theirs) / theirs.std()
            quantile, largest = np.quantile(differences, 0.99), differences.max()
            print(f"  {name:10} {quantile:.1e} {largest:.1e}")
            failed |= not (quantile < 1e-4 and largest < 2e-3)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
