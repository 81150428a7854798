"""Detectors that are fitted, against NumPy formulas on features and labels, and at the edges."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from odin_beam.transforms.detectors.leave_class_out import leave_class_out
from odin_beam.transforms.detectors.reference_tensors import ReferenceTensors
from odin_beam.transforms.detectors.registry import CLEAN_DETECTORS, DETECTORS, FITTED_DETECTORS
from odin_beam.transforms.fitting.reference import Reference
from odin_beam.transforms.forward.forward_pass import ForwardPass
from odin_beam.transforms.model.activations import Activations
from odin_beam.transforms.model.classifier import load_classifier
from tests.helpers import samples
from tests.helpers.feature_fits import fit, images
from tests.helpers.numpy_detectors import FORMULAS, TOLERANCES, unit

FIT, NEW = images(400), images(30, seed=1)
REFERENCE = fit(FIT)
H, X, W = (array.astype(np.float64) for array in (FIT.features, NEW.features, FIT.kernel))
PREDICTED = NEW.predictions


def activations(of):
    tensors = [tf.constant(array) for array in (of.logits, of.features)]
    return Activations(*tensors, kernel=tf.constant(of.kernel), bias=tf.constant(of.bias))


def scores(name, of=NEW, reference=REFERENCE):
    return FITTED_DETECTORS[name](activations(of), ReferenceTensors(reference)).numpy()


@pytest.mark.parametrize("name", FITTED_DETECTORS)
def test_it_is_the_published_formula(name):
    expected = FORMULAS[name](FIT, NEW, 200)
    got = scores(name)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCES[name] * expected.std())


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


@pytest.mark.parametrize("name", ["mds_unit", "rmds_unit", "gen_mds_unit", "knn", "nnguide"])
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
            of_images = Activations(logits, features, None, layer.kernel.value, layer.bias.value)
            for name in ("fdbd", "nci"):
                got = FITTED_DETECTORS[name](of_images, ReferenceTensors(reference))
                np.testing.assert_allclose(got, stored[f"{source}_{name}"], rtol=1e-4)


def leaving_out(of):
    """What the detectors get for a classifier that lacks each image's predicted class."""
    forward = ForwardPass(lambda pixels: activations(of), None)
    return leave_class_out(forward).activations(tf.zeros([0]))


@pytest.mark.parametrize("name", ["mds", "rmds", "mds_unit", "rmds_unit", "knn", "nnguide", "fdbd", "react"])
def test_a_class_that_is_left_out_is_not_looked_at(name):
    """As if neither the fit's images nor the last layer had it, image by image."""
    got = FITTED_DETECTORS[name](leaving_out(NEW), ReferenceTensors(REFERENCE)).numpy()
    for image in range(6):
        absent, kept = PREDICTED[image], np.arange(5) != PREDICTED[image]
        one = NEW._replace(features=NEW.features[[image]], logits=NEW.logits[[image]])
        if name == "fdbd":
            z, y = one.logits[0].astype(np.float64), np.where(kept, one.logits[0], -np.inf).argmax()
            terms = [(z[y] - z[c]) / np.linalg.norm(W[:, c] - W[:, y]) for c in range(5) if c not in (y, absent)]
            expected = sum(terms) / np.linalg.norm(X[image] - H.mean(axis=0))
        elif name == "react":
            z = np.minimum(X[image], REFERENCE.clip) @ W + FIT.bias
            expected = np.logaddexp.reduce(np.where(kept, z, z[kept].mean()))
        elif name in ("knn", "nnguide"):
            cosines = unit(one.features)[0] @ REFERENCE.bank.T
            z = np.where(kept, one.logits[0], one.logits[0][kept].mean())
            kept_rows = REFERENCE.bank_labels != absent
            guides = (cosines * REFERENCE.bank_energies)[kept_rows]
            mean = np.sort(guides)[-REFERENCE.nnguide_k :].mean()
            nearest = 2 * np.sort(cosines[kept_rows])[-REFERENCE.knn_k] - 2
            expected = nearest if name == "knn" else np.logaddexp.reduce(z) * mean
        else:
            part = "unit_distances" if name.endswith("unit") else "distances"
            distances = getattr(REFERENCE, part)
            without = distances._replace(offsets=np.where(kept, distances.offsets, np.inf))
            expected = scores(name, one, replace(REFERENCE, **{part: without}))[0]
        assert got[image] == pytest.approx(expected, rel=1e-5)


def test_the_lower_of_both_is_a_union_of_two_tests():
    known, standards = images(5000, seed=3), REFERENCE.standards
    lower = scores("gen_mds_unit", known)
    parts = {
        "gen": (CLEAN_DETECTORS["gen"](activations(known)).numpy() - standards.gen_mean) / standards.gen_deviation,
        "mds_unit": (scores("mds_unit", known) - standards.mds_unit_mean) / standards.mds_unit_deviation,
    }
    np.testing.assert_array_equal(lower, np.minimum(*parts.values()))
    flagged = lower < np.quantile(lower, 0.05)
    threshold = np.quantile(lower, 0.05)
    np.testing.assert_array_equal(flagged, (parts["gen"] < threshold) | (parts["mds_unit"] < threshold))
