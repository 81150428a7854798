"""From moments to Mahalanobis distances: covariances inverted once, so that scoring takes matrix products alone."""

from typing import NamedTuple

import numpy as np
from scipy import linalg

from odin_beam.transforms.fitting.moments import ClassScatter

# Images per feature, less one a class, below which the covariances are regularised.
_ENOUGH = 5
_RIDGE = 1e-2


class Distances(NamedTuple):
    """What Mahalanobis distances to class means and to the overall mean need; see `detectors.distances`.

    Attributes:
      mean: float64 [D], m, of all images.
      whitening: float64 [D, R], A with A A' = S^-1, S the within-class covariance; R = D unless S is singular.
      directions: float64 [D, K], S^-1 (m_c - m).
      offsets: float64 [K], (m_c - m)' S^-1 (m_c - m); infinite for classes without images.
      between: float64 [D, r], P with (h - m)' S0^-1 (h - m) = |A'(h - m)|^2 - |P'(h - m)|^2, S0 the total covariance.
    """

    mean: np.ndarray
    whitening: np.ndarray
    directions: np.ndarray
    offsets: np.ndarray
    between: np.ndarray


def images_per_feature(moments: ClassScatter) -> float:
    """(n - K) / D, n images and K classes that have some."""
    present = np.count_nonzero(moments.counts)
    return float(moments.counts.sum() - present) / moments.means.shape[1]


def is_regularised(moments: ClassScatter) -> bool:
    """Whether there are too few images for the covariances as they are."""
    return images_per_feature(moments) < _ENOUGH


def mahalanobis(moments: ClassScatter) -> Distances | None:
    """The distances of some moments; None where no feature varies within a class.

    With fewer than 5 images a feature, S and S0 both get 0.01 tr(S) / D added to their diagonals.
    """
    within, mean, width = moments.within, moments.mean, moments.means.shape[1]
    if not np.trace(within) > 0:
        return None
    if is_regularised(moments):
        within = within + _RIDGE * np.trace(within) / width * np.eye(width)
    whitening = _whitening(within)
    present = moments.counts > 0
    away = np.where(present[:, None], moments.means - mean, 0)
    # Class means in the space in which S is the identity, [K, R].
    whitened = away @ whitening
    shares = np.sqrt(moments.counts / moments.counts.sum())
    _, stretch, axes = np.linalg.svd(shares[:, None] * whitened, full_matrices=False)
    # S0 = A^-T (1 + V diag(stretch^2) V') A^-1, whose inverse is A (1 - V diag(s^2 / (1 + s^2)) V') A'.
    return Distances(
        mean,
        whitening,
        whitening @ whitened.T,
        np.where(present, np.einsum("kr,kr->k", whitened, whitened), np.inf),
        whitening @ (axes.T * (stretch / np.sqrt(1 + stretch**2))),
    )


def _whitening(covariance: np.ndarray) -> np.ndarray:
    """A with A A' the inverse, or of a singular covariance the pseudo-inverse, as in scikit-learn."""
    width = len(covariance)
    rounding = width * np.finfo(np.float64).eps
    try:
        factor = np.linalg.cholesky(covariance)
        # What a feature varies by itself, beside those before it: rounding alone if it follows from them.
        singular = np.any(np.diag(factor) ** 2 <= rounding * np.diag(covariance))
    except np.linalg.LinAlgError:
        singular = True
    if not singular:
        return linalg.solve_triangular(factor, np.eye(width), lower=True).T
    values, vectors = np.linalg.eigh(covariance)
    kept = values > rounding * values[-1]
    return vectors[:, kept] / np.sqrt(values[kept])
