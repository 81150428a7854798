"""The method, against an independent implementation and against float64."""

import decimal
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special

from odin_beam.transforms.detectors import odin
from odin_beam.transforms.detectors.odin_settings import OdinGrid, OdinSettings
from odin_beam.transforms.detectors.score_function import ScoreFunction
from odin_beam.transforms.model.classifier import as_classifier, load_classifier
from tests.helpers import samples
from tests.helpers.real_images import cifar10, tiny_imagenet

SIZE = 64


@pytest.fixture(scope="module")
def densenet():
    return load_classifier(str(samples.real("densenet_bc_100_12_cifar10.keras")))


@pytest.mark.parametrize(("images", "name"), [(cifar10, "in"), (tiny_imagenet, "out")])
def test_logits_and_scores_are_those_of_the_independent_implementation(densenet, images, name):
    with np.load(samples.real("odin_reference.npz")) as reference:
        clean, moved = reference[f"{name}_logits"][:SIZE], reference[f"{name}_perturbed_logits"][:SIZE]
    # In batches, since what a gradient keeps of a batch of 64 is 4 GB.
    batches = [
        odin.odin(densenet.logits, tf.constant(x), OdinSettings(1000, 0.0014)) for x in np.split(images(SIZE), 4)
    ]
    logits, perturbed_logits = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    np.testing.assert_allclose(logits, clean, atol=1e-4)
    # In NumPy, so that the reference does not pass through the code under test.
    exact = np.exp(moved / 1000 - (moved / 1000).max(axis=1, keepdims=True))
    np.testing.assert_allclose(odin.max_softmax(perturbed_logits, 1000), 1 / exact.sum(axis=1), rtol=1e-4)


def test_the_seed_keeps_every_sign_of_float64_where_float32_loses_some():
    """At T = 1 and p near 1, `softmax - onehot` in float32 is 0 or a few ulps for the predicted class."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(48, 5))
    pixels = rng.uniform(size=(100, 48))
    bias = np.array([25.0, 0, 0, 0, 0])

    def gradient(dtype, seed):
        x = tf.constant(pixels, dtype)
        with tf.GradientTape() as tape:
            tape.watch(x)
            logits = x @ tf.constant(weights, dtype) + tf.constant(bias, dtype)
        return tape.gradient(logits, x, output_gradients=seed(logits)).numpy()

    x = tf.constant(pixels)
    with tf.GradientTape() as tape:
        tape.watch(x)
        logits = x @ weights + bias
        p = tf.nn.log_softmax(logits)[:, 0]
    true = -tape.gradient(p, x).numpy()
    assert np.all(tf.argmax(logits, axis=1) == 0)
    # Confident enough to break float32, not float64.
    assert np.median(-np.expm1(p)) < 1e-6
    assert np.min(-np.expm1(p)) > 1e-15

    def naive(z):
        return tf.nn.softmax(z) - tf.one_hot(tf.argmax(z, axis=1), 5)

    np.testing.assert_array_equal(np.sign(gradient(tf.float32, lambda z: odin.backward_seed(z, 1.0))), np.sign(true))
    assert np.mean(np.sign(gradient(tf.float32, naive)) != np.sign(true)) > 0.05


@pytest.mark.parametrize("temperature", [1.0, 10.0, 1000.0])
def test_the_seed_is_the_derivative_up_to_a_positive_factor_per_image(temperature):
    logits = np.random.default_rng(1).normal(0, 3, (20, 6))
    seed = odin.backward_seed(tf.constant(logits), temperature).numpy()
    exponentials = np.exp(logits / temperature)
    derivative = exponentials / exponentials.sum(axis=1, keepdims=True) - np.eye(6)[logits.argmax(axis=1)]
    factors = seed / derivative
    np.testing.assert_allclose(factors, np.repeat(factors[:, :1], 6, axis=1), rtol=1e-9)
    assert np.all(factors > 0)
    np.testing.assert_allclose(seed.sum(axis=1), 0, atol=1e-12)
    assert np.all(seed[np.arange(20), logits.argmax(axis=1)] == -1)


def test_the_seed_of_a_tie_takes_the_first_class_for_the_predicted_one():
    np.testing.assert_allclose(odin.backward_seed(tf.constant([[2.0, 2.0, 2.0]]), 1.0), [[-1, 0.5, 0.5]])


def test_the_perturbation_is_epsilon_against_the_sign_of_the_gradient_and_neither_clipped_nor_rounded():
    # f = (x0 - x1, 0) of three pixels: the third does not matter to it.
    weights = tf.constant([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    pixels = tf.constant([[0.9999, 0.0001, 0.5], [0.2, 0.8, 1.0]])
    logits, (sign,) = odin.gradient_signs(lambda x: x @ weights, pixels, [1000.0])
    moved = odin.perturbed(pixels, sign, 0.0014)
    np.testing.assert_allclose(logits, pixels.numpy() @ weights.numpy())
    # The first image is predicted 0 and moves towards it, the second 1.
    expected = pixels.numpy() + np.float32(0.0014) * np.array([[1, -1, 0], [-1, 1, 0]], np.float32)
    np.testing.assert_array_equal(moved, expected)
    assert moved.numpy().max() > 1
    assert moved.numpy().min() < 0


@pytest.mark.parametrize(("epsilon", "forwards"), [(0.0, 1), (0.01, 2)])
def test_epsilon_0_costs_one_forward_and_anything_else_two(epsilon, forwards):
    calls = []

    def logits_function(x):
        calls.append(x)
        return tf.stack([x[:, 0], x[:, 1] * 2], axis=1)

    logits, moved = odin.odin(logits_function, tf.constant([[0.3, 0.6]]), OdinSettings(10, epsilon))
    assert len(calls) == forwards
    assert (epsilon == 0) == np.array_equal(logits, moved)


@pytest.mark.parametrize("temperature", [1.0, 30.0])
def test_epsilon_0_is_temperature_scaling_alone_and_at_temperature_1_the_msp_baseline(temperature):
    classifier = as_classifier(samples.small_model())
    score = ScoreFunction(classifier, OdinSettings(temperature, 0.0), ("odin", "msp"))
    pixels = samples.random_images(20).astype(np.float32) / 255
    columns = score(pixels).columns
    logits = classifier.logits(tf.constant(pixels)).numpy().astype(np.float64)
    expected = special.softmax(logits / temperature, axis=1).max(axis=1)
    np.testing.assert_allclose(columns["odin"], expected, rtol=1e-5)
    np.testing.assert_array_equal(columns["odin"] == columns["msp"], temperature == 1)


@pytest.mark.parametrize("temperature", [1.0, 1000.0])
def test_log_probabilities_stand_in_for_logits(temperature):
    model = samples.small_model(scale=100)
    powers = keras.ops.exp(model.output - keras.ops.max(model.output, axis=1, keepdims=True))
    answers = powers / keras.ops.sum(powers, axis=1, keepdims=True)
    hidden, open_ = as_classifier(keras.Model(model.inputs, answers)), as_classifier(model)
    assert (hidden.has_logits, open_.has_logits) == (False, True)
    pixels = tf.constant(samples.random_images(50).astype(np.float32) / 255)
    logits, (sign,) = odin.gradient_signs(open_.logits, pixels, [temperature])
    # Confident images, where the gradient of a rounded log p would be lost.
    assert np.quantile(odin.max_softmax(logits, 1.0), 0.75) > 1 - 1e-6
    np.testing.assert_array_equal(odin.gradient_signs(hidden.logits, pixels, [temperature])[1][0], sign)
    moved = odin.perturbed(pixels, sign, 0.01)
    scores = [odin.max_softmax(c.logits(moved), temperature) for c in (open_, hidden)]
    np.testing.assert_allclose(*scores, rtol=1e-6)


def test_pixels_that_are_cast_to_integers_have_no_gradient_and_the_error_says_so():
    def logits_function(x):
        return tf.cast(tf.cast(x * 255, tf.uint8), tf.float32) @ tf.ones((2, 3))

    pixels = tf.constant([[0.3, 0.6]])
    with pytest.raises(ValueError, match="no gradient reaches the pixels"):
        odin.odin(logits_function, pixels, OdinSettings())
    assert odin.odin(logits_function, pixels, OdinSettings(epsilon=0))[1].shape == (1, 3)


def test_max_softmax_and_its_readable_form_in_high_precision():
    logits = np.random.default_rng(2).normal(0, 5, (20, 10)).astype(np.float32)
    decimal.getcontext().prec = 50
    for temperature in (1, 10, 1000):
        for row, score, readable in zip(
            logits.tolist(),
            odin.max_softmax(tf.constant(logits), temperature).numpy().tolist(),
            odin.score_logit(tf.constant(logits), temperature).numpy().tolist(),
            strict=True,
        ):
            powers = [(decimal.Decimal(value) / temperature).exp() for value in row]
            exact = max(powers) / sum(powers)
            assert score == pytest.approx(float(exact), rel=1e-14)
            assert readable == pytest.approx(float(temperature * (exact.ln() + decimal.Decimal(10).ln())), rel=1e-11)


def test_scores_at_temperature_1000_stay_distinct_and_in_the_same_order_in_both_forms():
    logits = tf.constant(np.random.default_rng(3).normal(0, 5, (10_000, 10)).astype(np.float32))
    scores, readable = odin.max_softmax(logits, 1000).numpy(), odin.score_logit(logits, 1000).numpy()
    assert len(np.unique(scores)) == 10_000
    assert scores.max() - scores.min() < 5e-3
    np.testing.assert_array_equal(np.argsort(scores), np.argsort(readable))


@pytest.mark.parametrize("row", [[1e4, -1e4, 0.0], [-87.3, -87.3, 0.0], [0.0, 0.0, 0.0], [3e38, -3e38, 0.0]])
def test_extreme_logits_neither_overflow_nor_spoil_the_seed(row):
    logits = tf.constant([row])
    for temperature in (1.0, 1000.0):
        assert 1 / 3 <= odin.max_softmax(logits, temperature).numpy()[0] <= 1
        assert np.isfinite(odin.score_logit(logits, temperature).numpy()[0])
        assert np.all(np.isfinite(odin.backward_seed(logits, temperature)))


def test_one_image_of_nan_leaves_the_others_alone():
    classifier = as_classifier(samples.small_model())
    pixels = samples.random_images(3).astype(np.float32) / 255
    clean = odin.odin(classifier.logits, tf.constant(pixels), OdinSettings())[1].numpy()
    pixels[1] = np.nan
    spoiled = odin.odin(classifier.logits, tf.constant(pixels), OdinSettings())[1].numpy()
    np.testing.assert_allclose(spoiled[[0, 2]], clean[[0, 2]], rtol=1e-5)
    assert not np.isfinite(spoiled[1]).any()


def test_no_gradient_of_weights_is_computed():
    classifier = as_classifier(samples.small_model())
    function = tf.function(lambda x: odin.odin(classifier.logits, x, OdinSettings()), autograph=False)
    graph = function.get_concrete_function(tf.TensorSpec([2, 8, 8, 3])).graph
    # What is computed is what the outputs need; the rest of a graph is pruned.
    needed, pending = set(), [output.op for output in graph.outputs]
    while pending:
        operation = pending.pop()
        if operation not in needed:
            needed.add(operation)
            pending += [tensor.op for tensor in operation.inputs]
    kinds = {operation.type for operation in needed}
    assert "Conv2DBackpropInput" in kinds
    assert "Conv2DBackpropFilter" not in kinds


def test_an_image_alone_has_the_logits_that_it_has_in_a_batch():
    classifier = as_classifier(samples.small_model())
    pixels = tf.constant(samples.random_images(9).astype(np.float32) / 255)
    together = odin.odin(classifier.logits, pixels, OdinSettings())
    for i in range(9):
        for alone, batch in zip(odin.odin(classifier.logits, pixels[i : i + 1], OdinSettings()), together, strict=True):
            np.testing.assert_allclose(alone[0], batch[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("temperature", [0, -1, math.nan, math.inf])
def test_a_temperature_that_is_no_positive_number_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be"):
        OdinSettings(temperature=temperature)


@pytest.mark.parametrize("epsilon", [-1e-9, math.nan, math.inf])
def test_an_epsilon_that_is_no_number_from_0_is_refused(epsilon):
    with pytest.raises(ValueError, match="epsilon must be"):
        OdinSettings(epsilon=epsilon)


def test_gradients_of_several_temperatures_share_one_forward_and_are_those_of_each_alone():
    classifier, calls = as_classifier(samples.small_model()), []

    def logits_function(pixels):
        calls.append(pixels)
        return classifier.logits(pixels)

    pixels = tf.constant(samples.random_images(20).astype(np.float32) / 255)
    logits, signs = odin.gradient_signs(logits_function, pixels, [1.0, 1000.0])
    assert len(calls) == 1
    for temperature, sign in zip([1.0, 1000.0], signs, strict=True):
        alone = odin.gradient_signs(classifier.logits, pixels, [temperature])
        np.testing.assert_array_equal(alone[0], logits)
        np.testing.assert_array_equal(alone[1][0], sign)
    # Temperatures matter to the direction, or there would be nothing to tune.
    assert np.any(signs[0].numpy() != signs[1].numpy())


def test_a_grid_names_its_cells_so_that_no_two_are_alike_and_none_is_a_nested_field():
    grid = OdinGrid((1.0, 1000.0), (0.0, 0.0014, 1e-5, 0.1234567))
    assert list(grid.cells)[4:] == [
        "odin_T1000_eps0",
        "odin_T1000_eps0p0014",
        "odin_T1000_eps0p00001",
        "odin_T1000_eps0p1234567",
    ]
    assert grid.cells["odin_T1_eps0p0014"] == OdinSettings(1.0, 0.0014)


@pytest.mark.parametrize(
    ("temperatures", "epsilons", "message"),
    [
        ((), (0.0,), "temperatures must be at least one number"),
        ((1.0,), (), "epsilons must be at least one number"),
        ((1.0, 1.0), (0.0,), "without duplicates"),
        ((0.0,), (0.0,), "temperature must be"),
        ((1.0,), (-0.1,), "epsilon must be"),
        ((math.nan,), (0.0,), "temperature must be"),
        ((1.0,), (math.inf,), "epsilon must be"),
    ],
)
def test_a_grid_of_nothing_or_of_bad_numbers_is_refused(temperatures, epsilons, message):
    with pytest.raises(ValueError, match=message):
        OdinGrid(temperatures, epsilons)
