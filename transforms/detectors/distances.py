"""Mahalanobis distances of features to class means; pure functions. High = in-distribution.

With A A' the inverse of the within-class covariance S, z = A'(h - m) and u_c = A'(m_c - m), the squared distance to a
class mean is |z - u_c|^2 = |z|^2 - 2 z'u_c + |u_c|^2, where z'u_c = (h - m)' A u_c: matrix products only. The total
covariance is S0 = S + B diag(pi) B' with B the class means minus m, so by Woodbury's identity the distance under S0
is |z|^2 - |P'(h - m)|^2 with P of no more columns than there are classes. The relative score needs no z at all.
"""

import tensorflow as tf

from odin_beam.transforms.detectors.logits import is_class
from odin_beam.transforms.fitting.covariance import Distances


def mds(features: tf.Tensor, distances: Distances, left_out: tf.Tensor | None = None) -> tf.Tensor:
    """Minus the smallest squared Mahalanobis distance to a class mean, `max_c -(h - m_c)' S^-1 (h - m_c)`.

    Lee et al. 2018, https://arxiv.org/abs/1807.03888, on the last features alone.

    Args:
      features: float [N, D].
      distances: of the reference's features.
      left_out: int32 [N], a class that is not looked at; see `leave_class_out`.

    Returns:
      float64 [N], <= 0 but for rounding.
    """
    centred = _centred(features, distances)
    nearest = _nearest_class(centred, distances, left_out)
    return nearest - tf.reduce_sum(tf.square(centred @ distances.whitening), axis=1)


def rmds(features: tf.Tensor, distances: Distances, left_out: tf.Tensor | None = None) -> tf.Tensor:
    """Relative Mahalanobis distance, `mds + (h - m)' S0^-1 (h - m)`.

    Ren et al. 2021, https://arxiv.org/abs/2106.09022. Arguments as in `mds`.

    Returns:
      float64 [N].
    """
    centred = _centred(features, distances)
    nearest = _nearest_class(centred, distances, left_out)
    return nearest - tf.reduce_sum(tf.square(centred @ distances.between), axis=1)


def mds_unit(features: tf.Tensor, unit_distances: Distances, left_out: tf.Tensor | None = None) -> tf.Tensor:
    """`mds` of h / |h| (MDS++, Mueller and Hein 2025, https://arxiv.org/abs/2505.18032).

    Args:
      features: float [N, D].
      unit_distances: of the reference's unit features.
      left_out: as in `mds`.

    Returns:
      float64 [N]; NaN for h = 0.
    """
    return mds(unit(features), unit_distances, left_out)


def rmds_unit(features: tf.Tensor, unit_distances: Distances, left_out: tf.Tensor | None = None) -> tf.Tensor:
    """`rmds` of h / |h| (RMDS++, Mueller and Hein 2025, https://arxiv.org/abs/2505.18032); else as `mds_unit`."""
    return rmds(unit(features), unit_distances, left_out)


def unit(features: tf.Tensor) -> tf.Tensor:
    """The features over their Euclidean norm, h / |h|, float64 [N, D]; NaN for h = 0."""
    h = tf.cast(features, tf.float64)
    # Of the largest feature first, whose square could overflow or vanish.
    h /= tf.reduce_max(tf.abs(h), axis=1, keepdims=True)
    return h / tf.norm(h, axis=1, keepdims=True)


def _centred(features: tf.Tensor, distances: Distances) -> tf.Tensor:
    return tf.cast(features, tf.float64) - distances.mean


def _nearest_class(centred: tf.Tensor, distances: Distances, left_out: tf.Tensor | None) -> tf.Tensor:
    """|z|^2 minus the squared distance to the nearest class mean; the offset of a class without images is infinite."""
    nearness = 2 * (centred @ distances.directions) - distances.offsets
    if left_out is not None:
        absent = is_class(left_out, tf.shape(nearness)[1])
        nearness = tf.where(absent, tf.constant(float("-inf"), tf.float64), nearness)
    return tf.reduce_max(nearness, axis=1)
