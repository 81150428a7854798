"""What becomes a graph of constants, and what does not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from odin_beam.transforms.forward import frozen_graph
from odin_beam.transforms.forward.frozen_graph import NotFreezable, freeze
from tests.helpers import samples

SHAPE = (4, 4, 1)
PIXELS = tf.constant(samples.random_images(3, SHAPE).astype(np.float32) / 255)


def test_what_follows_from_constants_is_one_constant():
    weights = tf.Variable([1.0, 4.0, 9.0])

    def forward(pixels):
        factors = tf.identity(tf.sqrt(weights)) * tf.constant(2.0)
        return [tf.reduce_sum(pixels, (1, 2, 3))[:, None] * factors, factors]

    graph = freeze(forward, SHAPE)
    assert {"Sqrt", "Identity"}.isdisjoint(node.op for node in graph.nodes.values())
    np.testing.assert_allclose(graph.value(graph.outputs[1]), [2.0, 4.0, 6.0])
    outputs = graph.function(SHAPE)(PIXELS)
    for ours, theirs in zip(outputs, forward(PIXELS), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_gradients_flow_through_for_any_batch_size():
    function = freeze(lambda pixels: [tf.reduce_sum(pixels**3, (1, 2, 3))], SHAPE).function(SHAPE)
    for count in (1, 3):
        pixels = PIXELS[:count]
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            outputs = function(pixels)[0]
        np.testing.assert_allclose(tape.gradient(outputs, pixels), 3 * pixels**2, rtol=1e-5)


def test_a_batch_that_is_split_and_joined_keeps_its_outputs_apart():
    """An output other than an operation's first."""

    def forward(pixels):
        first, second = tf.split(pixels, 2, axis=1)
        return [second, first]

    outputs = freeze(forward, SHAPE).function(SHAPE)(PIXELS)
    np.testing.assert_array_equal(outputs[0], PIXELS[:, 2:])
    np.testing.assert_array_equal(outputs[1], PIXELS[:, :2])


@pytest.mark.parametrize("beta", [1.0, 1.7])
def test_swish_is_left_to_its_operations_whose_gradient_is_the_same(beta):
    def forward(pixels):
        return [tf.reduce_sum(tf.nn.silu(9 * pixels - 4, beta), (1, 2, 3))]

    graph = freeze(forward, SHAPE)
    assert "IdentityN" not in {node.op for node in graph.nodes.values()}
    found = []
    for function in (forward, graph.function(SHAPE)):
        with tf.GradientTape() as tape:
            tape.watch(PIXELS)
            outputs = function(PIXELS)[0]
        found.append((outputs, tape.gradient(outputs, PIXELS)))
    (theirs, their_gradient), (ours, our_gradient) = found
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_allclose(our_gradient, their_gradient, rtol=1e-5, atol=1e-6)


def test_a_gradient_of_another_kind_is_not_taken_for_swish():
    @tf.custom_gradient
    def gated(x):
        return x * tf.sigmoid(2 - x), lambda upstream: upstream

    graph = freeze(lambda pixels: [gated(pixels)], SHAPE)
    assert "IdentityN" in {node.op for node in graph.nodes.values()}


def random(pixels):
    return [pixels + tf.random.uniform(tf.shape(pixels))]


def python(pixels):
    return [tf.numpy_function(lambda x: x, [pixels], tf.float32)]


def branch(pixels):
    return [tf.cond(tf.reduce_sum(pixels) > 0, lambda: pixels, lambda: -pixels)]


def loop(pixels):
    return [tf.while_loop(lambda x: tf.reduce_sum(x) < 100, lambda x: (2 * x,), (pixels,))[0]]


def independent(pixels):
    return [tf.constant(1.0)]


@pytest.mark.parametrize("forward", [random, python, branch, loop, independent])
def test_state_branches_and_loops_are_refused(forward):
    with pytest.raises(NotFreezable):
        freeze(forward, SHAPE)


def test_too_many_weights_are_refused_before_they_are_copied(monkeypatch):
    model = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(10)])
    monkeypatch.setattr(frozen_graph, "MOST_BYTES", 4 * model.count_params() - 1)
    monkeypatch.setattr(frozen_graph, "convert_variables_to_constants_v2", None)
    with pytest.raises(NotFreezable, match="too many weights"):
        freeze(lambda pixels: [model(pixels)], SHAPE)
