"""Detectors that are fitted, against NumPy formulas on features and labels, and at the edges."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import logsumexp

from odin_beam.transforms.detectors.reference_tensors import ReferenceTensors
from odin_beam.transforms.detectors.registry import DETECTORS, FITTED_DETECTORS
from odin_beam.transforms.fitting.reference import Reference
from odin_beam.transforms.model.activations import Activations
from odin_beam.transforms.model.classifier import load_classifier
from tests.helpers import samples
from tests.helpers.feature_fits import fit, images

FIT, NEW = images(400), images(30, seed=1)
REFERENCE = fit(FIT)
H, F, X, Z = (array.astype(np.float64) for array in (FIT.features, FIT.logits, NEW.features, NEW.logits))
W, B, PREDICTED = FIT.kernel.astype(np.float64), FIT.bias.astype(np.float64), NEW.predictions


def unit(h):
    return h / np.linalg.norm(h, axis=1, keepdims=True)


def energy(z):
    return logsumexp(z, axis=1)


def bank():
    """Rows of the fit's images in the bank: 40 a class, by digests that are their numbers."""
    return np.concatenate([np.flatnonzero(FIT.labels == c)[:40] for c in range(5)])


def numpy_mds(h, x):
    means = np.stack([h[FIT.labels == c].mean(axis=0) for c in range(5)])
    centred = h - means[FIT.labels]
    inverse = np.linalg.inv(centred.T @ centred / len(h))
    return np.max([-np.einsum("nd,de,ne->n", x - m, inverse, x - m) for m in means], axis=0)


def numpy_rmds(h, x):
    away = x - h.mean(axis=0)
    return numpy_mds(h, x) + np.einsum("nd,de,ne->n", away, np.linalg.inv(np.cov(h.T, bias=True)), away)


def numpy_vim():
    origin = -np.linalg.pinv(W.T) @ B
    values, vectors = np.linalg.eigh((H - origin).T @ (H - origin))
    residual = vectors[:, np.argsort(-values)[6:]]
    ours, theirs = (np.linalg.norm((h - origin) @ residual, axis=1) for h in (X, H))
    return energy(Z) - F.max(axis=1).mean() / theirs.mean() * ours


def numpy_knn():
    squares = np.square(unit(X)[:, None] - unit(H[bank()])).sum(axis=2)
    # 200 rows of 5 classes: 200 / (20 * 5).
    return -np.sort(squares, axis=1)[:, 1]


def numpy_nnguide():
    guides = unit(X) @ unit(H[bank()]).T * energy(F[bank()])
    return energy(Z) * np.sort(guides, axis=1)[:, -4:].mean(axis=1)


def numpy_fdbd():
    scores = []
    for x, z, y in zip(X, Z, PREDICTED, strict=True):
        terms = [abs(z[c] - z[y]) / np.linalg.norm(W[:, c] - W[:, y]) for c in range(5) if c != y]
        scores.append(sum(terms) / np.linalg.norm(x - H.mean(axis=0)))
    return scores


def numpy_nci():
    away = X - H.mean(axis=0)
    return np.sum(W.T[PREDICTED] * unit(away), axis=1) + 1e-4 * np.abs(X).sum(axis=1)


def numpy_she():
    right = FIT.predictions == FIT.labels
    means = np.stack([H[right & (FIT.labels == c)].mean(axis=0) for c in range(5)])
    return np.sum(X * means[PREDICTED], axis=1)


EXPECTED = {
    "react": lambda: energy(np.minimum(X, np.quantile(H, 0.9)) @ W + B),
    "mds": lambda: numpy_mds(H, X),
    "rmds": lambda: numpy_rmds(H, X),
    "mds_unit": lambda: numpy_mds(unit(H), unit(X)),
    "rmds_unit": lambda: numpy_rmds(unit(H), unit(X)),
    "vim": numpy_vim,
    "knn": numpy_knn,
    "nnguide": numpy_nnguide,
    "fdbd": numpy_fdbd,
    "nci": numpy_nci,
    "she": numpy_she,
}


def scores(name, of=NEW, reference=REFERENCE):
    tensors = [tf.constant(array) for array in (of.logits, of.features)]
    activations = Activations(*tensors, kernel=tf.constant(of.kernel), bias=tf.constant(of.bias))
    return FITTED_DETECTORS[name](activations, ReferenceTensors(reference)).numpy()


@pytest.mark.parametrize("name", FITTED_DETECTORS)
def test_it_is_the_published_formula(name):
    expected = np.array(EXPECTED[name]())
    got = scores(name)
    assert got.dtype == np.float64
    # `react` has its limit from a histogram of few features; neighbours are compared in float32.
    tolerance = {"react": 1e-2, "knn": 1e-5, "nnguide": 1e-5}.get(name, 1e-6)
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * expected.std())


@pytest.mark.parametrize("name", FITTED_DETECTORS)
def test_images_of_the_fit_score_above_foreign_ones(name):
    foreign = NEW.with_features(np.abs(np.random.default_rng(2).normal(size=X.shape)))
    assert np.nanmedian(scores(name)) > np.nanmedian(scores(name, foreign))


def test_rows_are_ready_for_use():
    assert not set(FITTED_DETECTORS) & set(DETECTORS)
    for row in FITTED_DETECTORS.values():
        assert callable(row._score())
        assert row.state
        assert set(row.state) <= set(Reference.STATE)


@pytest.mark.parametrize("xla", [False, True])
@pytest.mark.parametrize("name", FITTED_DETECTORS)
def test_a_graph_captures_the_state_and_serves_every_batch_size(name, xla):
    tensors = ReferenceTensors(REFERENCE)
    function = tf.function(
        lambda logits, features: FITTED_DETECTORS[name](
            Activations(logits, features, None, tf.constant(NEW.kernel), tf.constant(NEW.bias)), tensors
        ),
        input_signature=[tf.TensorSpec([None, 5]), tf.TensorSpec([None, 12])],
        autograph=False,
        jit_compile=xla,
    )
    graph = function.get_concrete_function()
    nodes = graph.graph.as_graph_def().node
    sizes = [np.size(tf.make_ndarray(node.attr["value"].tensor)) for node in nodes if node.op == "Const"]
    # TensorFlow itself copies up to 128 numbers.
    assert max(sizes) <= 128
    for size in (1, 30):
        np.testing.assert_allclose(graph(NEW.logits[:size], NEW.features[:size]), scores(name)[:size], rtol=1e-5)


@pytest.mark.parametrize("name", ["mds_unit", "rmds_unit", "knn", "nnguide"])
def test_features_of_zero_have_no_unit_vector_and_no_score(name):
    zero = NEW.with_features(NEW.features * (np.arange(30) != 4)[:, None])
    np.testing.assert_array_equal(np.isnan(scores(name, zero)), np.arange(30) == 4)


@pytest.mark.parametrize("name", ["fdbd", "nci"])
def test_features_at_the_mean_have_no_direction_and_no_score(name):
    reference = fit(FIT.with_features(np.tile(NEW.features[3], (400, 1))))
    np.testing.assert_array_equal(np.isnan(scores(name, NEW, reference)), np.arange(30) == 3)


def test_without_energy_there_is_no_guide():
    lower = NEW._replace(logits=NEW.logits - np.where(np.arange(30) < 9, 1000, 0).astype(np.float32)[:, None])
    np.testing.assert_array_equal(np.isnan(scores("nnguide", lower)), np.arange(30) < 9)


def test_classes_of_equal_weights_have_no_boundary():
    kernel = NEW.kernel.copy()
    kernel[:, 1] = kernel[:, 0]
    bias = NEW.bias - np.float32([0, 9, 0, 0, 0])
    doubled = NEW._replace(kernel=kernel, bias=bias).with_features(NEW.features)
    got = scores("fdbd", doubled)
    assert np.isfinite(got).all()
    image = np.flatnonzero(doubled.predictions == 0)[0]
    z = doubled.logits[image].astype(np.float64)
    terms = [(z[0] - z[c]) / np.linalg.norm(W[:, c] - W[:, 0]) for c in (2, 3, 4)]
    assert got[image] == pytest.approx(sum(terms) / np.linalg.norm(X[image] - H.mean(axis=0)))


def test_classes_without_images_are_not_the_nearest():
    absent = int(np.bincount(PREDICTED).argmax())
    kept = FIT.labels != absent
    part = FIT._replace(features=FIT.features[kept], logits=FIT.logits[kept], labels=FIT.labels[kept])
    reference = fit(part)
    got = scores("mds", NEW, reference)
    assert np.isfinite(got).all()
    assert np.median(got[absent == PREDICTED]) < np.median(scores("mds")[absent == PREDICTED])
    np.testing.assert_array_equal(np.isnan(scores("she", NEW, reference)), absent == PREDICTED)


def test_scores_without_a_fit_of_their_own_are_those_of_the_independent_implementation():
    layer = load_classifier(str(samples.real("densenet_bc_100_12_cifar10.keras"))).last_layer
    with np.load(samples.real("feature_reference.npz")) as stored:
        reference = Reference(stored["class_counts"], stored["mean"])
        for source in ("in", "out", "near"):
            logits, features = (tf.constant(stored[f"{source}_{part}"], tf.float32) for part in ("logits", "features"))
            activations = Activations(logits, features, None, layer.kernel.value, layer.bias.value)
            for name in ("fdbd", "nci"):
                got = FITTED_DETECTORS[name](activations, ReferenceTensors(reference))
                np.testing.assert_allclose(got, stored[f"{source}_{name}"], rtol=1e-4)
