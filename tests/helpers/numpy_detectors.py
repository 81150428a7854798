"""The fitted detectors as their papers have them, in NumPy: on `Images` of a fit and on new ones."""

import numpy as np
from scipy.special import logsumexp

from tests.helpers.feature_fits import Images


def double(array):
    return np.asarray(array, np.float64)


def unit(h):
    return double(h) / np.linalg.norm(double(h), axis=1, keepdims=True)


def energy(z):
    return logsumexp(double(z), axis=1)


def bank(fit: Images, rows: int) -> np.ndarray:
    """Numbers of the fit's images in a bank of so many rows, by digests that are their numbers."""
    classes = fit.kernel.shape[1]
    return np.concatenate([np.flatnonzero(fit.labels == c)[: rows // classes] for c in range(classes)])


def mahalanobis(h, labels, x):
    classes = np.unique(labels)
    means = np.stack([h[labels == c].mean(axis=0) for c in classes])
    centred = h - means[np.searchsorted(classes, labels)]
    inverse = np.linalg.inv(centred.T @ centred / len(h))
    return np.max([-np.einsum("nd,de,ne->n", x - m, inverse, x - m) for m in means], axis=0)


def relative(h, labels, x):
    away = x - h.mean(axis=0)
    total = np.linalg.inv(np.cov(h.T, bias=True))
    return mahalanobis(h, labels, x) + np.einsum("nd,de,ne->n", away, total, away)


def react(fit, new, rows):
    clipped = np.minimum(double(new.features), np.quantile(double(fit.features), 0.9))
    return energy(clipped @ double(new.kernel) + new.bias)


def vim(fit, new, rows):
    origin = -np.linalg.pinv(double(fit.kernel).T) @ fit.bias
    h, x = (double(of.features) - origin for of in (fit, new))
    values, vectors = np.linalg.eigh(h.T @ h)
    residual = vectors[:, np.argsort(-values)[h.shape[1] // 2 :]]
    theirs, ours = (np.linalg.norm(part @ residual, axis=1) for part in (h, x))
    return energy(new.logits) - double(fit.logits).max(axis=1).mean() / theirs.mean() * ours


def knn(fit, new, rows):
    of = bank(fit, rows)
    squares = np.square(unit(new.features)[:, None] - unit(fit.features[of])).sum(axis=2)
    k = max(1, round(len(of) / (20 * fit.kernel.shape[1])))
    return -np.sort(squares, axis=1)[:, k - 1]


def nnguide(fit, new, rows):
    of = bank(fit, rows)
    guides = unit(new.features) @ unit(fit.features[of]).T * energy(fit.logits[of])
    k = max(1, round(len(of) / (10 * fit.kernel.shape[1])))
    return energy(new.logits) * np.sort(guides, axis=1)[:, -k:].mean(axis=1)


def fdbd(fit, new, rows):
    scores, mean, w = [], double(fit.features).mean(axis=0), double(new.kernel)
    for x, z, y in zip(double(new.features), double(new.logits), new.predictions, strict=True):
        others = [c for c in range(len(z)) if c != y]
        terms = [abs(z[c] - z[y]) / np.linalg.norm(w[:, c] - w[:, y]) for c in others]
        scores.append(sum(terms) / np.linalg.norm(x - mean))
    return np.array(scores)


def nci(fit, new, rows):
    away = double(new.features) - double(fit.features).mean(axis=0)
    weights = double(new.kernel).T[new.predictions]
    return np.sum(weights * unit(away), axis=1) + 1e-4 * np.abs(double(new.features)).sum(axis=1)


def she(fit, new, rows):
    right, h = fit.predictions == fit.labels, double(fit.features)
    of_class = [h[right & (fit.labels == c)] for c in range(fit.kernel.shape[1])]
    means = np.stack([part.mean(axis=0) if len(part) else np.full(h.shape[1], np.nan) for part in of_class])
    return np.sum(double(new.features) * means[new.predictions], axis=1)


def gen(z):
    p = np.exp(double(z) - energy(z)[:, None])
    # 1 - p would cancel for a certain prediction.
    rest = np.stack([np.delete(p, c, axis=1).sum(axis=1) for c in range(p.shape[1])], axis=1)
    return -np.sum((p * rest) ** 0.1, axis=1)


def gen_mds_unit(fit, new, rows):
    of = bank(fit, rows)
    parts = []
    for score in (lambda of: gen(of.logits), lambda of: mahalanobis(unit(fit.features), fit.labels, unit(of.features))):
        known = score(fit._replace(features=fit.features[of], logits=fit.logits[of]))
        parts.append((score(new) - known.mean()) / known.std())
    return np.minimum(*parts)


# Detector -> scores of new images, from images of the fit and the rows of the bank.
FORMULAS = {
    "react": react,
    "mds": lambda fit, new, rows: mahalanobis(double(fit.features), fit.labels, double(new.features)),
    "rmds": lambda fit, new, rows: relative(double(fit.features), fit.labels, double(new.features)),
    "mds_unit": lambda fit, new, rows: mahalanobis(unit(fit.features), fit.labels, unit(new.features)),
    "rmds_unit": lambda fit, new, rows: relative(unit(fit.features), fit.labels, unit(new.features)),
    "gen_mds_unit": gen_mds_unit,
    "vim": vim,
    "knn": knn,
    "nnguide": nnguide,
    "fdbd": fdbd,
    "nci": nci,
    "she": she,
}
# Of a detector's spread: `react` has its limit from a histogram of few features; neighbours are compared in float32.
TOLERANCES = dict.fromkeys(FORMULAS, 1e-6) | {"react": 1e-2, "knn": 1e-5, "nnguide": 1e-5}
