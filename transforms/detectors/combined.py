"""A detector made of two that see different things: what the logits say, and where the features lie.

Logits tell images between the known classes and pay no heed to what the last layer does not use; distances of features
tell images of another kind and pay no heed to classes that are close. Each is blind where the other sees, so the lower
of both is taken, as a union of two tests. In practice that costs little where one of them sees nothing, and gains much
where it does.

Magesh et al. 2023, https://arxiv.org/abs/2206.09522, combine tests by p-values. These two are this project's choice,
and so are deviations from the mean in place of p-values, which end at the lowest score of the bank. What it is worth:
docs/tuning.md.
"""

import tensorflow as tf

from odin_beam.transforms.detectors.distances import mds_unit
from odin_beam.transforms.detectors.logits import gen
from odin_beam.transforms.fitting.covariance import Distances
from odin_beam.transforms.fitting.standards import Standards


def gen_mds_unit(
    logits: tf.Tensor,
    features: tf.Tensor,
    unit_distances: Distances,
    standards: Standards,
    left_out: tf.Tensor | None = None,
) -> tf.Tensor:
    """The lower of `gen` and `mds_unit`, each in deviations from its mean over the bank.

    Args:
      logits: float [N, K].
      features: float [N, D].
      unit_distances: of the reference's unit features.
      standards: means and deviations of both.
      left_out: int32 [N], a class that the distances do not look at, see `leave_class_out`; the logits lack it.

    Returns:
      float64 [N], about 0 for the images that were fitted to; NaN for h = 0.
    """
    of_logits = (gen(logits) - standards.gen_mean) / standards.gen_deviation
    of_features = (
        mds_unit(features, unit_distances, left_out) - standards.mds_unit_mean
    ) / standards.mds_unit_deviation
    return tf.minimum(of_logits, of_features)
