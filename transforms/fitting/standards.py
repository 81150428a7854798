"""Means and deviations of two detectors' scores over the bank, which put them on one scale.

    standards = fit_standards(bank.features, weights, unit_distances)

TensorFlow is imported when they are computed: who only reads a reference does not need it.
"""

from typing import NamedTuple

import numpy as np

from odin_beam.transforms.fitting.covariance import Distances
from odin_beam.transforms.fitting.feature_rows import LastLayerWeights

_AT_ONCE = 1024


class Standards(NamedTuple):
    """What `gen_mds_unit` needs besides the distances: float64 [] each, the deviations above 0."""

    gen_mean: np.ndarray
    gen_deviation: np.ndarray
    mds_unit_mean: np.ndarray
    mds_unit_deviation: np.ndarray


def fit_standards(features: np.ndarray, weights: LastLayerWeights, unit_distances: Distances) -> Standards | None:
    """The standards of some images, as many of each class.

    Args:
      features: float32 [B, D]; rows of zeros, which have no `mds_unit`, are left out.
      weights: of the last layer.
      unit_distances: of the reference.

    Returns:
      None where all images have the same score.
    """
    import tensorflow as tf

    from odin_beam.transforms.detectors.distances import mds_unit
    from odin_beam.transforms.detectors.logits import gen

    features = features[features.any(axis=1)]
    scores: list[tuple[np.ndarray, np.ndarray]] = []
    with tf.device("/CPU:0"):
        for start in range(0, len(features), _AT_ONCE):
            rows = features[start : start + _AT_ONCE]
            logits = rows.astype(np.float64) @ weights.kernel + weights.bias
            scores.append((gen(tf.constant(logits)).numpy(), mds_unit(tf.constant(rows), unit_distances).numpy()))
    if not scores:
        return None
    figures = [f(np.concatenate(part)) for part in zip(*scores, strict=True) for f in (np.mean, np.std)]
    # Rounding is no deviation.
    if any(deviation <= 1e-12 * max(1.0, abs(mean)) for mean, deviation in (figures[:2], figures[2:])):
        return None
    return Standards(*map(np.array, figures))
