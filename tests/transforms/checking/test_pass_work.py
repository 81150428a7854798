"""The work of a forward pass, against counts by hand and against the benchmarks' own."""

import keras
import pytest
import tensorflow as tf

from benchmarks import layers, networks
from odin_beam.transforms.checking.pass_work import NotCountable, einsum_multiplications, pass_work
from odin_beam.transforms.forward import frozen_graph
from odin_beam.transforms.model.classifier import as_classifier, load_classifier
from tests.helpers import samples


def by_layers(outputs_of, shape=(8, 8, 3)):
    """The work of a network that ends in a dense layer of 5 classes."""
    inputs = keras.Input(shape)
    return pass_work(as_classifier(keras.Model(inputs, keras.layers.Dense(5)(outputs_of(inputs)))))


def test_a_small_network_counted_by_hand():
    def network(x):
        x = keras.layers.Conv2D(6, 3, strides=2, padding="same", activation="relu")(x)
        x = keras.layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False)(x)
        return keras.layers.GlobalAveragePooling2D()(x)

    work = by_layers(network)
    convolution, depthwise, dense = 4 * 4 * 6 * (3 * 3 * 3), 4 * 4 * 12 * (3 * 3), 12 * 5
    assert work.operations == 2 * (convolution + depthwise + dense)
    # The convolution, its bias, the ReLU; the depthwise one; the mean; the dense layer and its bias.
    assert work.values == 3 * (4 * 4 * 6) + 4 * 4 * 12 + 12 + 2 * 5


def test_a_normalisation_folds_into_the_convolution_before_it():
    def network(x):
        x = keras.layers.BatchNormalization()(keras.layers.Conv2D(6, 1, use_bias=False)(x))
        return keras.layers.GlobalAveragePooling2D()(x)

    # One addition per number is left of it.
    assert by_layers(network).values == 2 * (8 * 8 * 6) + 6 + 2 * 5


def test_attention_counts_its_products():
    def network(x):
        x = keras.layers.Reshape((16, 12))(x)
        x = keras.layers.MultiHeadAttention(num_heads=2, key_dim=4, use_bias=False)(x, x)
        return keras.layers.GlobalAveragePooling1D()(x)

    projections, products = 4 * 16 * 12 * 8, 2 * (2 * 16 * 16 * 4)
    assert by_layers(network).operations == 2 * (projections + products + 12 * 5)


@pytest.mark.parametrize(
    ("terms", "shapes", "expected"),
    [
        (["ij", "jk"], [(2, 3), (3, 5)], 30),
        (["...ij", "jk"], [(7, 2, 3), (3, 5)], 210),
        (["...i", "...i"], [(7, 1, 3), (4, 3)], 84),
        (["ij"], [(2, 3)], 0),
    ],
)
def test_einsum_multiplies_once_per_combination_of_indices(terms, shapes, expected):
    assert einsum_multiplications(terms, shapes) == expected


def test_a_saved_model_and_a_model_too_large_for_constants_count_the_same(tmp_path, monkeypatch):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(6, 3, padding="same")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(x)))
    expected = pass_work(as_classifier(model))
    assert expected.operations == 2 * (8 * 8 * 6 * 27 + 8 * 8 * 6 * 5)
    model.export(tmp_path / "exported", verbose=False)
    assert pass_work(load_classifier(str(tmp_path / "exported"))) == expected
    monkeypatch.setattr(frozen_graph, "MOST_BYTES", 0)
    assert pass_work(as_classifier(model)) == expected


def test_what_cannot_be_counted_is_said():
    class Loop(keras.layers.Layer):
        def call(self, x):
            return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, y * 1.5), (tf.constant(0), x))[1]

    with pytest.raises(NotCountable, match="While"):
        by_layers(lambda x: keras.layers.Flatten()(Loop()(x)))


@pytest.mark.parametrize(
    ("name", "gigaflops", "by_hand"),
    # Of ODIN, as docs/performance.md has them; megabytes as counted there by hand.
    [("wide_resnet", 1.966, 45), ("densenet", 1.728, 320)],
)
def test_the_benchmarks_networks(name, gigaflops, by_hand):
    if name == "densenet":
        samples.real("densenet_bc_100_12_cifar10.keras")
    model = networks.NETWORKS[name].build()
    work = pass_work(as_classifier(model))
    assert work.operations == layers.operations(networks.describe(model)[0])
    assert 3 * work.operations / 1e9 == pytest.approx(gigaflops, abs=1e-3)
    # By hand additions behind a convolution were left out, of which WideResNet has most.
    assert by_hand <= 24 * work.values / 1e6 <= 1.4 * by_hand


def test_resnet_50_has_the_published_count(monkeypatch):
    # Folding takes half a minute, and moves no operation.
    monkeypatch.setattr(frozen_graph, "MOST_BYTES", 0)
    work = pass_work(as_classifier(keras.applications.ResNet50(weights=None, classifier_activation=None)))
    # Multiply-adds: He et al. 2016, https://arxiv.org/abs/1512.03385, table 1, has 3.8e9.
    assert work.operations / 2e9 == pytest.approx(3.86, abs=0.005)
