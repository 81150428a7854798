"""Folded networks compute what they did, with the normalisations gone."""

import collections

import keras
import numpy as np
import pytest
import tensorflow as tf

from odin_beam.transforms.forward import folding
from odin_beam.transforms.forward.frozen_graph import freeze
from odin_beam.transforms.model.classifier import load_classifier
from tests.helpers import samples

SHAPE = (8, 8, 3)
PIXELS = tf.constant(samples.random_images(6, SHAPE).astype(np.float32) / 255)
layers = keras.layers


def normalised(x, negative=0):
    """Batch normalisation with weights as training leaves them; the first channels have a factor of 0 or below it."""
    layer = layers.BatchNormalization()
    y = layer(x)
    rng, n = np.random.default_rng(x.shape[-1]), x.shape[-1]
    gamma = rng.uniform(0.5, 2, n)
    gamma[:negative] *= -1
    gamma[: negative // 2] = 0
    layer.set_weights([gamma, rng.normal(0, 0.5, n), rng.normal(0, 0.5, n), rng.uniform(0.1, 2, n)])
    return y


def conv_norm_relu(x):
    return layers.ReLU()(normalised(layers.Conv2D(7, 3)(x)))


def depthwise_norm_relu(x):
    x = layers.ReLU()(normalised(layers.DepthwiseConv2D(3, depth_multiplier=2)(x)))
    return layers.Conv2D(4, 1)(x)


def norm_relu_conv(x):
    x = layers.ReLU()(normalised(layers.Concatenate()([x, layers.Conv2D(4, 3, padding="same")(x)])))
    return layers.Conv2D(5, 3, padding="same", use_bias=False)(x)


def norm_relu_of_two_convolutions(x):
    a = layers.ReLU()(normalised(x))
    return layers.Add()([layers.Conv2D(4, 3, padding="same")(a), layers.Conv2D(4, 1)(a)])


def norm_relu_pool_depthwise(x):
    x = layers.ZeroPadding2D(1)(layers.ReLU()(normalised(x)))
    return layers.DepthwiseConv2D(2)(layers.AveragePooling2D(2)(layers.MaxPooling2D(2)(x)))


def dense_norm_relu_dense(x):
    x = layers.ReLU()(normalised(layers.Dense(9)(layers.Flatten()(x))))
    return layers.Reshape((1, 1, 6))(layers.Dense(6)(x))


def shared_layer(x):
    """One convolution in two places, behind one of which there is a normalisation."""
    shared = layers.Conv2D(3, 3, padding="same")
    first = shared(x)
    return layers.Add()([normalised(first), shared(layers.ReLU()(first))])


# What is left of each normalisation's product.
@pytest.mark.parametrize(
    ("body", "products"),
    [
        (conv_norm_relu, 0),
        (depthwise_norm_relu, 0),
        (norm_relu_conv, 0),
        (norm_relu_of_two_convolutions, 0),
        (norm_relu_pool_depthwise, 0),
        (dense_norm_relu_dense, 0),
        # Two take what the shared layer gives.
        (shared_layer, 1),
    ],
)
def test_logits_and_gradients_stay_and_the_products_go(body, products):
    model = classifier_of(body)
    operations, folded = folded_form(model)
    assert operations["Mul"] == products
    assert_same(model, folded)


@pytest.mark.parametrize("negative", [1, 2])
def test_a_factor_that_is_not_positive_stays_before_its_relu(negative):
    def body(x):
        return layers.Conv2D(5, 3)(layers.ReLU()(normalised(x, negative)))

    model = classifier_of(body)
    operations, folded = folded_form(model)
    assert operations["Mul"] == 1
    assert_same(model, folded)


def test_a_factor_behind_a_convolution_may_have_any_sign():
    def body(x):
        return layers.ReLU()(normalised(layers.Conv2D(6, 3)(x), 4))

    model = classifier_of(body)
    operations, folded = folded_form(model)
    assert operations["Mul"] == 0
    assert_same(model, folded)


def test_what_is_an_output_itself_keeps_its_scale():
    inputs = keras.Input(SHAPE)
    features = layers.ReLU()(normalised(inputs))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 1)(features))
    model = keras.Model(inputs, [layers.Dense(3)(pooled), features])
    graph = freeze(lambda pixels: list(model(pixels, training=False)), SHAPE)
    folding.fold(graph)
    for ours, theirs in zip(graph.function(SHAPE)(PIXELS), model(PIXELS, training=False), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_normalisation_in_one_operation_is_folded_too():
    rng = np.random.default_rng(0)
    filters = tf.constant(rng.normal(size=(3, 3, 3, 4)), tf.float32)
    scale, shift, mean = (tf.constant(rng.normal(size=4), tf.float32) for _ in range(3))
    variance = tf.constant(rng.uniform(0.5, 2, 4), tf.float32)

    def forward(pixels):
        x = tf.nn.conv2d(pixels, filters, 1, "SAME")
        x = tf.compat.v1.nn.fused_batch_norm(x, scale, shift, mean, variance, 0.01, is_training=False)[0]
        return [tf.reduce_mean(tf.nn.relu(x), (1, 2))]

    graph = freeze(forward, SHAPE)
    folding.fold(graph)
    operations = collections.Counter(node.op for node in graph.nodes.values())
    assert not operations["FusedBatchNormV3"] and not operations["Mul"]
    np.testing.assert_allclose(graph.function(SHAPE)(PIXELS)[0], forward(PIXELS)[0], rtol=1e-5, atol=1e-6)


def test_the_real_network_keeps_its_scores_and_loses_most_products():
    classifier = load_classifier(str(samples.real("densenet_bc_100_12_cifar10.keras")))
    reference = np.load(samples.real("odin_reference.npz"))["in_logits"][:32]
    images = np.load(samples.real("cifar10_test.npz"))["x"][:32].astype(np.float32) / 255
    graph = freeze(lambda pixels: [classifier.logits(pixels)], classifier.input_shape)
    before = collections.Counter(node.op for node in graph.nodes.values())["Mul"]
    folding.fold(graph)
    after = collections.Counter(node.op for node in graph.nodes.values())["Mul"]
    # In 15 layers some factor is not positive; the last normalisation is followed by no convolution.
    assert (before, after) == (99, 15 + 1)
    logits = graph.function(classifier.input_shape)(tf.constant(images))[0]
    np.testing.assert_allclose(logits, reference, atol=1e-4)


def relus_of(graph) -> list[str]:
    """What each ReLU takes, by what computes it."""
    sources = [graph.producer(node.input[0]) for node in graph.nodes.values() if node.op == "Relu"]
    assert {source.op for source in sources} <= {"BiasAdd", "AddV2"}
    return sorted(graph.producer(source.input[0]).op for source in sources)


def twice_normalised(x):
    """A negative factor stays, and goes along; a map without a factor of its own; one behind a convolution."""
    x = layers.ReLU()(normalised(layers.Concatenate()([x, layers.Conv2D(4, 3, padding="same")(x)]), negative=2))
    x = layers.ReLU()(normalised(layers.MaxPooling2D(2)(layers.Conv2D(5, 3)(x))))
    return layers.Conv2D(3, 1)(layers.ReLU()(normalised(layers.Conv2D(4, 1)(x))))


def taken_twice(x):
    """What is added is an output of the body too."""
    x = normalised(layers.MaxPooling2D(2)(x))
    return layers.Concatenate()([layers.Conv2D(3, 1)(layers.ReLU()(x)), x])


@pytest.mark.parametrize(
    ("body", "before_relus"),
    [
        (twice_normalised, ["Conv2D", "DepthwiseConv2dNative", "DepthwiseConv2dNative"]),
        (conv_norm_relu, ["Conv2D"]),
        (depthwise_norm_relu, ["DepthwiseConv2dNative"]),
        (dense_norm_relu_dense, ["MatMul"]),
        (taken_twice, ["Mul"]),
    ],
)
def test_sums_before_relus_become_one_operation_with_them(body, before_relus):
    model = classifier_of(body)
    graph = freeze(lambda pixels: [model(pixels, training=False)], SHAPE)
    folding.fold(graph)
    folding.join_with_relus(graph, SHAPE)
    assert relus_of(graph) == before_relus
    function = graph.function(SHAPE)
    assert_same(model, lambda pixels: function(pixels)[0])


@pytest.mark.parametrize(("negative", "gradients"), [(0, 0), (1, 1)])
def test_the_gradient_of_a_factor_of_one_is_no_operation(negative, gradients):
    model = classifier_of(lambda x: layers.Conv2D(5, 1)(layers.ReLU()(normalised(x, negative))))
    graph = freeze(lambda pixels: [model(pixels, training=False)], SHAPE)
    folding.fold(graph)
    folding.join_with_relus(graph, SHAPE)
    function = graph.function(SHAPE)

    def way_back(pixels):
        return tf.gradients(function(pixels), pixels)

    made = tf.function(way_back).get_concrete_function(tf.TensorSpec(PIXELS.shape))
    operations = collections.Counter(node.op for node in all_nodes(made))
    assert operations["DepthwiseConv2dNativeBackpropInput"] == gradients


def all_nodes(function):
    """Of a function that has been traced, and of those it calls."""
    definition = function.graph.as_graph_def()
    return [*definition.node, *(node for inner in definition.library.function for node in inner.node_def)]


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_they_are_joined_in_the_type_they_have(dtype):
    shift = tf.constant([0.5, -1.0, 0.25])

    def forward(pixels):
        x = tf.nn.relu(tf.cast(pixels, dtype) + tf.cast(shift, dtype))
        return [tf.cast(tf.reduce_sum(x, (1, 2)), tf.float32)]

    graph = freeze(forward, SHAPE)
    folding.join_with_relus(graph, SHAPE)
    assert relus_of(graph) == ["DepthwiseConv2dNative"]
    np.testing.assert_array_equal(graph.function(SHAPE)(PIXELS)[0], forward(PIXELS)[0])


def classifier_of(body) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input(SHAPE)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(body(inputs))))


def folded_form(model: keras.Model):
    graph = freeze(lambda pixels: [model(pixels, training=False)], SHAPE)
    folding.fold(graph)
    function = graph.function(SHAPE)
    operations = collections.Counter(node.op for node in graph.nodes.values())
    return operations, lambda pixels: function(pixels)[0]


def assert_same(model: keras.Model, folded) -> None:
    logits, gradients = [], []
    for forward in (lambda pixels: model(pixels, training=False), folded):
        with tf.GradientTape() as tape:
            tape.watch(PIXELS)
            logits.append(forward(PIXELS))
        gradients.append(tape.gradient(logits[-1], PIXELS, output_gradients=tf.ones_like(logits[-1])))
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-4, atol=1e-5)
    scale = np.abs(gradients[0]).max()
    assert scale > 0
    np.testing.assert_allclose(gradients[1], gradients[0], atol=1e-4 * scale)
