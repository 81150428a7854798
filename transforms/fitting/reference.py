"""The reference: what the fitted detectors know of in-distribution features, derived from a fit's statistics.

subspace = vim_subspace(moments, kernel, bias)
residual_sum = sum(vim_residual_sum(features, *subspace) for features in batches)
reference = fit_reference(moments, histogram, bank, weights, subspace, residual_sum)
reference.unavailable                       -> {"she": "no image was classified correctly"}
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from odin_beam.transforms import limits
from odin_beam.transforms.fitting.bank import Bank
from odin_beam.transforms.fitting.clip import FeatureHistogram
from odin_beam.transforms.fitting.covariance import Distances, images_per_feature, is_regularised, mahalanobis
from odin_beam.transforms.fitting.feature_rows import LastLayerWeights
from odin_beam.transforms.fitting.moments import Moments
from odin_beam.transforms.fitting.residual import Residual, Subspace, principal_dimension
from odin_beam.transforms.fitting.standards import Standards, fit_standards

# Of ReAct's limit.
QUANTILE = 0.9


@dataclass(frozen=True, eq=False)
class Reference:
    """What the fitted detectors need, and how it was made. None where a detector's state is not available.

    Attributes:
      counts: int64 [K], images by class; of [1] where classes times features are too many for statistics of classes.
      mean: float64 [D], of all features.
      clip: float64 [], the 90th percentile of all features' entries.
      distances: of features.
      unit_distances: of h / |h|.
      standards: of the scores of two detectors.
      residual: ViM's space and scale.
      bank: float32 [B, D], h / |h|.
      bank_labels: int32 [B], classes of these images.
      bank_energies: float32 [B].
      knn_k: 1 to B; 0 without a bank.
      nnguide_k: 1 to B; 0 without a bank.
      she_means: float64 [K, D], of the features of correctly classified images.
      she_counts: int64 [K], images behind each of these means.
      unavailable: detector -> why it has no scores.
      regularised: detectors whose covariances were regularised for want of images.
      discouraged: detectors never to be recommended: there are fewer images than features.
      about: JSON-compatible, of the fit that made it: the model's digest, preprocessing, geometry, versions.
      digests: int64 [N], ascending, of the images that were fitted to; no score depends on them.
    """

    # The fields that detectors take.
    STATE: ClassVar = (
        *("mean", "clip", "distances", "unit_distances", "standards", "residual"),
        *("bank", "bank_labels", "bank_energies", "knn_k", "nnguide_k", "she_means", "she_counts"),
    )

    counts: np.ndarray
    mean: np.ndarray
    clip: np.ndarray | None = None
    distances: Distances | None = None
    unit_distances: Distances | None = None
    standards: Standards | None = None
    residual: Residual | None = None
    bank: np.ndarray | None = None
    bank_labels: np.ndarray | None = None
    bank_energies: np.ndarray | None = None
    knn_k: int = 0
    nnguide_k: int = 0
    she_means: np.ndarray | None = None
    she_counts: np.ndarray | None = None
    unavailable: Mapping[str, str] = field(default_factory=dict)
    regularised: tuple[str, ...] = ()
    discouraged: tuple[str, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    digests: np.ndarray | None = None

    def arrays(self) -> dict[str, np.ndarray]:
        """Every array that scores depend on, by name; `distances.mean` for a part's."""
        found = {}
        for name in ("counts", *self.STATE):
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                found[name] = value
            elif isinstance(value, tuple):
                found |= {f"{name}.{part}": array for part, array in value._asdict().items()}
        return found

    @property
    def digest(self) -> str:
        """SHA-256 of everything that scores depend on, in hexadecimal."""
        digest = hashlib.sha256(f"{self.knn_k} {self.nnguide_k} {sorted(self.unavailable)}".encode())
        for name, array in sorted(self.arrays().items()):
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def neighbours(rows: int, classes: int) -> tuple[int, int]:
    """(k of `knn`, k of `nnguide`) for a bank: at most a twentieth and a tenth of the rows of a class.

    With 10 rows a class the 50th neighbour would lie in another one.
    """
    knn, nnguide = round(rows / (20 * classes)), round(rows / (10 * classes))
    return min(max(knn, 1), 50, rows), min(max(nnguide, 1), 100, rows)


def fit_reference(
    moments: Moments,
    histogram: FeatureHistogram,
    bank: Bank,
    weights: LastLayerWeights,
    subspace: Subspace | None,
    residual_sum: float = 0.0,
    about: Mapping[str, Any] | None = None,
    digests: np.ndarray | None = None,
) -> Reference:
    """Derives the reference from the statistics of a fit.

    Args:
      moments: of all images.
      histogram: of all features.
      bank: of all images.
      weights: of the last layer.
      subspace: `vim_subspace` of the moments.
      residual_sum: sum of `vim_residual_sum` over all images.
      about: of the fit; see `Reference`.
      digests: of its images; see `Reference`.

    Raises:
      ValueError: there are no images.
    """
    if not moments.count:
        raise ValueError("there are no images to fit to")
    state, unavailable = {}, {}
    for part in (
        _clip(histogram),
        _distances(moments),
        _residual(moments, subspace, residual_sum),
        _bank(bank),
        _means(moments),
    ):
        state |= part[0]
        unavailable |= part[1]
    part = _standards(bank, weights, state.get("unit_distances"), unavailable)
    state, unavailable = state | part[0], unavailable | part[1]
    fitted = [name for name in _OF_COVARIANCE if name not in unavailable]
    parts = {name: moments.unit if name.endswith("_unit") else moments.features for name in fitted}
    return Reference(
        moments.features.counts.copy(),
        moments.features.mean,
        **state,
        unavailable=unavailable,
        regularised=tuple(name for name in fitted if is_regularised(parts[name])),
        discouraged=tuple(name for name in fitted if images_per_feature(parts[name]) < 1),
        about=dict(about or {}),
        digests=digests,
    )


_OF_COVARIANCE = ("mds", "rmds", "mds_unit", "rmds_unit", "gen_mds_unit")
_Part = tuple[dict[str, Any], dict[str, str]]


def _clip(histogram: FeatureHistogram) -> _Part:
    if histogram.smallest < 0:
        return {}, {"react": "features are negative"}
    return {"clip": np.array(histogram.quantile(QUANTILE))}, {}


def _distances(moments: Moments) -> _Part:
    if reason := _too_many(moments):
        return {}, dict.fromkeys(_OF_COVARIANCE, reason)
    state, unavailable = {}, {}
    for name, part, suffix in (("distances", moments.features, ""), ("unit_distances", moments.unit, "_unit")):
        state[name] = mahalanobis(part)
        if state[name] is None:
            names = [name for name in _OF_COVARIANCE if name.endswith("_unit") == bool(suffix)]
            unavailable |= dict.fromkeys(names, "features do not vary within classes")
    return state, unavailable


def _standards(
    bank: Bank, weights: LastLayerWeights, unit_distances: Distances | None, unavailable: Mapping[str, str]
) -> _Part:
    if "gen_mds_unit" in unavailable:
        return {}, {}
    standards = fit_standards(bank.features, weights, unit_distances)
    return (
        ({}, {"gen_mds_unit": "the scores of all images are equal"})
        if standards is None
        else ({"standards": standards}, {})
    )


def _too_many(moments: Moments) -> str | None:
    if not moments.with_scatter:
        return f"{moments.width:,} features; the limit is {limits.MAX_SCATTER_WIDTH:,}"
    return None if moments.with_classes else _too_many_classes(moments)


def _too_many_classes(moments: Moments) -> str:
    return f"{moments.classes:,} classes of {moments.width:,} features; the limit is {limits.MAX_CLASS_MEANS:,} in all"


def _residual(moments: Moments, subspace: Subspace | None, residual_sum: float) -> _Part:
    principal = principal_dimension(moments.width)
    if not moments.with_scatter:
        return {}, {"vim": _too_many(moments)}
    if subspace is None or moments.count <= principal:
        return {}, {"vim": f"{moments.count:,} images; more than {principal:,} are needed"}
    # What is left of the second moment by rounding is not a residual.
    spread = np.trace(moments.features.total) + np.sum((moments.features.mean - subspace.origin) ** 2)
    if not residual_sum / moments.count > 1e-10 * np.sqrt(spread):
        return {}, {"vim": "features have no residual"}
    return {"residual": Residual(*subspace, np.array(moments.max_logit_sum / residual_sum))}, {}


def _bank(bank: Bank) -> _Part:
    largest = np.abs(bank.features).max(axis=1, initial=0).astype(np.float64)
    kept = largest > 0
    if not kept.any():
        return {}, dict.fromkeys(("knn", "nnguide"), "all features are 0")
    rows = bank.features[kept] / largest[kept, None]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    energies = bank.energies[kept]
    knn_k, nnguide_k = neighbours(len(rows), bank.classes)
    labels = bank.labels[kept].astype(np.int32)
    state = {"bank": rows.astype(np.float32), "bank_labels": labels, "bank_energies": energies}
    state |= {"knn_k": knn_k, "nnguide_k": nnguide_k}
    return state, {} if (energies > 0).any() else {"nnguide": "no energy is above 0"}


def _means(moments: Moments) -> _Part:
    if not moments.with_classes:
        return {}, {"she": _too_many_classes(moments)}
    if not moments.correct.counts.any():
        return {}, {"she": "no image was classified correctly"}
    return {"she_means": moments.correct.means.copy(), "she_counts": moments.correct.counts.copy()}, {}
