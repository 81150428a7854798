"""The residual space of ViM (Wang et al. 2022, https://arxiv.org/abs/2203.10807): what classes do not depend on.

It takes two passes over the features: the space follows from moments, and its scale from the mean residual in it.

    subspace = vim_subspace(moments, kernel, bias)
    total = sum(vim_residual_sum(features, *subspace) for features in batches)
"""

from typing import NamedTuple

import numpy as np

from odin_beam.transforms.fitting.moments import Moments


class Subspace(NamedTuple):
    """The residual space.

    Attributes:
      origin: float64 [D], o, where the logits without their constant are 0.
      basis: float64 [D, D - d], R, orthonormal.
    """

    origin: np.ndarray
    basis: np.ndarray


class Residual(NamedTuple):
    """What ViM's score needs: `Subspace`, and alpha, float64 []: mean largest logit over mean norm of the residual."""

    origin: np.ndarray
    basis: np.ndarray
    alpha: np.ndarray


def principal_dimension(width: int) -> int:
    """d, the dimension of the principal space that ViM leaves out, of D features."""
    if width >= 2048:
        return 1000
    return 512 if width >= 768 else width // 2


def vim_subspace(moments: Moments, kernel: np.ndarray, bias: np.ndarray) -> Subspace | None:
    """The eigenvectors of `E[(h - o)(h - o)']` past the first d, o = -pinv(W) b.

    Args:
      moments: of the fit.
      kernel: float [D, K], W'.
      bias: float [K].

    Returns:
      None where D is too large for the matrix, or where there are no more than d images.
    """
    principal = principal_dimension(moments.width)
    if not moments.with_scatter or moments.count <= principal:
        return None
    origin = -np.linalg.pinv(np.asarray(kernel, np.float64).T) @ np.asarray(bias, np.float64)
    away = moments.features.mean - origin
    values, vectors = np.linalg.eigh(moments.features.total + np.outer(away, away))
    order = np.argsort(-values, kind="stable")
    return Subspace(origin, np.ascontiguousarray(vectors[:, order[principal:]]))


def vim_residual_sum(features: np.ndarray, origin: np.ndarray, basis: np.ndarray) -> float:
    """Sum of |R'(h - o)| over features float32 [N, D], to be added over all batches of the fit."""
    return float(np.linalg.norm((np.asarray(features, np.float64) - origin) @ basis, axis=1).sum())
