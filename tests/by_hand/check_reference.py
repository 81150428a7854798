"""Compares logits, scores and metrics with the independent implementation's on 500 + 500 images (a minute).

    .venv/bin/python -m tests.by_hand.check_reference

Exit code 1 where a tolerance is exceeded: 1e-4 on clean logits, 1e-4 relative on ODIN scores, 0.05 points on metrics.
"""

import sys

import numpy as np
import tensorflow as tf

from odin_beam.transforms.detectors.odin import max_softmax, odin
from odin_beam.transforms.detectors.odin_settings import OdinSettings
from odin_beam.transforms.metrics.detection_metrics import detection_metrics
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.model.classifier import load_classifier
from tests.helpers.real_images import cifar10, tiny_imagenet
from tests.helpers.samples import SHARED_DATA

COUNT, BATCH = 500, 50
METRICS = ("fpr_at_95_tpr", "detection_error", "auroc", "aupr_in", "aupr_out")


def softmax_at_1000(logits: np.ndarray) -> np.ndarray:
    """S(x; 1000) in NumPy, float64 [N]."""
    scaled = logits.astype(np.float64) / 1000
    return 1 / np.exp(scaled - scaled.max(axis=1, keepdims=True)).sum(axis=1)


def main() -> int:
    """Prints the differences; the exit code says whether they are within the tolerances."""
    classifier = load_classifier(str(SHARED_DATA / "densenet_bc_100_12_cifar10.keras"))
    function = tf.function(lambda x: odin(classifier.logits, x, OdinSettings(1000, 0.0014)), autograph=False)
    ours, theirs, worst_logit, worst_score = [], [], 0.0, 0.0
    with np.load(SHARED_DATA / "odin_reference.npz") as reference:
        for name, pixels in (("in", cifar10(COUNT)), ("out", tiny_imagenet(COUNT))):
            batches = [function(tf.constant(pixels[i : i + BATCH])) for i in range(0, COUNT, BATCH)]
            clean, moved = (np.concatenate(parts) for parts in zip(*batches, strict=True))
            ours.append(max_softmax(moved, 1000.0).numpy())
            theirs.append(softmax_at_1000(reference[f"{name}_perturbed_logits"]))
            worst_logit = max(worst_logit, np.abs(clean - reference[f"{name}_logits"]).max())
            worst_score = max(worst_score, np.abs(ours[-1] / theirs[-1] - 1).max())
    print(f"largest difference of a clean logit         {worst_logit:.1e}")
    print(f"largest relative difference of an ODIN score {worst_score:.1e}")
    a, b = (detection_metrics(*map(ScoreHistogram.of, scores)) for scores in (ours, theirs))
    differences = [100 * abs(getattr(a, name) - getattr(b, name)) for name in METRICS]
    print("percent          " + "".join(f"{name:>17}" for name in METRICS))
    for title, metrics in (("this program", a), ("reference", b)):
        print(f"{title:17}" + "".join(f"{100 * getattr(metrics, name):17.3f}" for name in METRICS))
    print(f"{'difference':17}" + "".join(f"{difference:17.3f}" for difference in differences))
    return int(worst_logit > 1e-4 or worst_score > 1e-4 or max(differences) > 0.05)


if __name__ == "__main__":
    sys.exit(main())
