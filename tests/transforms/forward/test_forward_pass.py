"""A forward pass in its fastest form gives what the classifier gives."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from odin_beam.transforms.detectors.odin import NoGradient, max_softmax
from odin_beam.transforms.detectors.odin_settings import OdinSettings
from odin_beam.transforms.detectors.score_function import ScoreFunction
from odin_beam.transforms.forward import forward_pass as module
from odin_beam.transforms.forward.float64_clone import float64_clone
from odin_beam.transforms.forward.forward_pass import forward_pass
from odin_beam.transforms.model.classifier import as_classifier, load_classifier
from tests.helpers import samples

PIXELS = tf.constant(samples.random_images(5).astype(np.float32) / 255)


def test_all_that_one_forward_pass_gives_is_there():
    classifier = as_classifier(samples.small_model())
    fast = forward_pass(classifier).activations
    assert fast != classifier.activations
    ours, theirs = fast(PIXELS), classifier.activations(PIXELS)
    assert vars(ours).keys() == vars(theirs).keys()
    for name, value in vars(theirs).items():
        if value is None:
            assert getattr(ours, name) is None
        else:
            np.testing.assert_allclose(getattr(ours, name), value, rtol=1e-5, atol=1e-6)


def test_scores_of_the_real_network_are_those_of_the_independent_reference():
    classifier = load_classifier(str(samples.real("densenet_bc_100_12_cifar10.keras")))
    images = np.load(samples.real("cifar10_test.npz"))["x"][:48].astype(np.float32) / 255
    reference = np.load(samples.real("odin_reference.npz"))["in_perturbed_logits"][:48]
    columns = ScoreFunction(classifier, OdinSettings(), ("odin",))(images).columns
    np.testing.assert_allclose(columns["odin"], max_softmax(tf.constant(reference), 1000.0), rtol=1e-4)


@tf.custom_gradient
def straight_through(x):
    """Rounds; the gradient passes as if it did not."""
    return tf.round(4 * x) / 4, lambda upstream: upstream


def test_a_gradient_of_the_models_own_making_is_kept():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Lambda(straight_through, output_shape=(8, 8, 3))(inputs)
    x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    classifier = as_classifier(model)
    gradients = []
    for activations in (classifier.activations, forward_pass(classifier).activations):
        with tf.GradientTape() as tape:
            tape.watch(PIXELS)
            logits = activations(PIXELS).logits
        gradients.append(tape.gradient(logits, PIXELS, output_gradients=tf.one_hot([0] * 5, 3)))
    assert np.abs(gradients[0]).max() > 0
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-4, atol=1e-7)


def test_that_no_gradient_reaches_the_pixels_is_still_noticed():
    inputs = keras.Input((8, 8, 3))
    x = keras.ops.cast(keras.ops.cast(255 * inputs, "uint8"), "float32")
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(NoGradient):
        ScoreFunction(as_classifier(model), OdinSettings(), ("odin",))


def test_a_folding_that_changes_the_logits_is_not_used(monkeypatch):
    def wrong(graph):
        graph.outputs[0] = graph.add(
            "Mul", "wrong", [graph.outputs[0], graph.add_constant(np.float32(1.001), "w")], T=tf.float32
        )

    monkeypatch.setattr(module.folding, "fold", wrong)
    classifier = as_classifier(samples.small_model())
    reason = "rewritten, it computes something else"
    assert forward_pass(classifier) == module.ForwardPass(classifier.activations, None, reason)


def rounding_model():
    """A convolution lifts its maps by 30,000, and the normalisation after it takes that off again: in float32 each
    value loses its last three digits. Folding cancels the two before any image is seen.
    """
    inputs = keras.Input((8, 8, 3))
    lifted = keras.layers.Conv2D(6, 3, bias_initializer=keras.initializers.Constant(3e4))(inputs)
    normalised = keras.layers.BatchNormalization(moving_mean_initializer=keras.initializers.Constant(3e4))(lifted)
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(keras.ops.tanh(normalised))))


def test_a_folding_that_rounds_better_than_the_model_is_used():
    keras.utils.set_random_seed(1)
    classifier = as_classifier(rounding_model())
    logits, folded, exact = (
        form.activations(PIXELS).logits.numpy()
        for form in (classifier, forward_pass(classifier), float64_clone(classifier))
    )
    assert np.abs(logits - folded).max() > 1e-4 * np.abs(logits).max()
    np.testing.assert_allclose(folded, exact, rtol=0, atol=1e-5 * np.abs(exact).max())
    assert forward_pass(classifier).as_loaded is None


def test_a_model_whose_gradient_is_0_on_noise_is_folded():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", bias_initializer=keras.initializers.Constant(-1e3))(inputs)
    outputs = keras.layers.Dense(3, bias_initializer="ones")(keras.layers.GlobalAveragePooling2D()(x))
    assert forward_pass(as_classifier(keras.Model(inputs, outputs))).as_loaded is None


def test_rounding_does_not_excuse_a_wrong_folding(monkeypatch):
    fold = module.folding.fold

    def wrong(graph):
        fold(graph)
        filters = next(node for node in graph.nodes.values() if node.op == "Conv2D")
        filters.input[1] = graph.add_constant(np.float32(1.1) * graph.value(filters.input[1]), "wrong")

    monkeypatch.setattr(module.folding, "fold", wrong)
    keras.utils.set_random_seed(1)
    assert forward_pass(as_classifier(rounding_model())).as_loaded == "rewritten, it computes something else"


def test_without_a_float64_clone_a_difference_by_rounding_counts():
    keras.utils.set_random_seed(1)
    model = rounding_model()
    outputs = keras.layers.Lambda(lambda logits: 2 * logits)(model.outputs[0])
    classifier = as_classifier(keras.Model(model.inputs, outputs))
    assert float64_clone(classifier) is None
    assert forward_pass(classifier).as_loaded == "rewritten, it computes something else"


def test_a_model_that_folding_makes_nothing_of_runs_as_it_was_loaded():
    """A factor per channel for maps of one channel, which it makes three of."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(1, 3)(inputs)
    x = x * tf.constant([1.0, 2.0, 3.0]) + tf.constant([0.1, 0.2, 0.3])
    x = keras.layers.Conv2D(2, 3)(keras.layers.ReLU()(x))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    classifier = as_classifier(model)
    logits = forward_pass(classifier).activations(PIXELS).logits
    np.testing.assert_allclose(logits, classifier.logits(PIXELS), rtol=1e-5, atol=1e-6)


def test_a_model_that_bfloat16_makes_nothing_of_runs_in_float32(monkeypatch, caplog):
    def no_kernel(graph):
        raise tf.errors.UnimplementedError(None, None, "no such kernel")

    monkeypatch.setattr(module, "has_bfloat16", lambda: True)
    monkeypatch.setattr(module, "round_inside", no_kernel)
    classifier = as_classifier(samples.small_model())
    logits = forward_pass(classifier, "mixed").activations(PIXELS).logits
    np.testing.assert_array_equal(logits, forward_pass(classifier).activations(PIXELS).logits)
    assert "no such kernel" in caplog.text


def test_a_model_that_bfloat16_changes_too_much_runs_in_float32(monkeypatch, caplog):
    def wrong(graph):
        graph.outputs[0] = graph.add(
            "Mul", "wrong", [graph.outputs[0], graph.add_constant(np.float32(1.2), "w")], T=tf.float32
        )

    monkeypatch.setattr(module, "has_bfloat16", lambda: True)
    monkeypatch.setattr(module, "round_inside", wrong)
    classifier = as_classifier(samples.small_model())
    logits = forward_pass(classifier, "mixed").activations(PIXELS).logits
    np.testing.assert_array_equal(logits, forward_pass(classifier).activations(PIXELS).logits)
    assert "the model gives different results in bfloat16: using float32" in caplog.text


@pytest.mark.parametrize(("gpu", "joined"), [(False, 1), (True, 0)])
def test_sums_are_joined_with_relus_in_mixed_precision_where_onednn_computes(gpu, joined, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "has_bfloat16", lambda: True)
    monkeypatch.setattr(module.device, "on_gpu", lambda: gpu)
    monkeypatch.setattr(module.folding, "join_with_relus", lambda graph, shape: calls.append(shape))
    classifier = as_classifier(samples.small_model())
    forward_pass(classifier)
    assert not calls
    forward_pass(classifier, "mixed")
    assert calls == [classifier.input_shape] * joined
