"""Files that Keras 2 saved load with the outputs they had there."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from odin_beam.transforms.detectors.odin import odin
from odin_beam.transforms.detectors.odin_settings import OdinSettings
from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.model.classifier import load_classifier
from odin_beam.transforms.model.keras2 import Untranslatable, translated
from odin_beam.transforms.model.preprocessing import Preprocessing
from tests.helpers import samples

layers, applications = tf_keras.layers, tf_keras.applications


def application(name):
    return lambda: getattr(applications, name)(weights=None, input_shape=(71, 71, 3), classes=4)


def teachable():
    """As Teachable Machine saves it: models inside models, the last without a bias."""
    base = applications.MobileNet(weights=None, input_shape=(64, 64, 3), alpha=0.25, include_top=False)
    features = tf_keras.Sequential([base, layers.GlobalAveragePooling2D()])
    head = [layers.Dense(8, "relu", input_shape=(256,)), layers.Dense(3, "softmax", use_bias=False)]
    return tf_keras.Sequential([features, tf_keras.Sequential(head)])


def augmented():
    ahead = [layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.RandomZoom(0.1)]
    rest = [layers.Rescaling(1 / 255), layers.Conv2D(6, 3), layers.LeakyReLU(0.2), layers.SeparableConv2D(6, 3)]
    pooled = [layers.GlobalAveragePooling2D(), layers.Dense(4)]
    return tf_keras.Sequential([layers.Input((16, 16, 3)), *ahead, *rest, *pooled])


def functions():
    """Functions of TensorFlow on tensors, with a constant on either side."""
    inputs = layers.Input((16, 16, 3))
    x = layers.Conv2DTranspose(4, 3, name="with/slash")(tf.nn.relu6(1.0 - inputs / 255.0 + 0.5))
    x = tf.nn.silu(x * 2.0) + x
    return tf_keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x))))


MODELS = {
    **{name: application(name) for name in ("MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "Xception")},
    **{make.__name__: make for make in (teachable, augmented, functions)},
}


def settled(model, inputs):
    """The moments of every normalisation become those of the inputs, as if trained, so outputs differ by image."""
    parts = [model]
    while parts:
        for layer in parts.pop().layers:
            if isinstance(layer, tf_keras.Model):
                parts.append(layer)
            elif isinstance(layer, layers.BatchNormalization):
                layer.momentum = 0.0
    model(inputs, training=True)
    last = next(weight for weight in reversed(model.trainable_weights) if len(weight.shape) > 1)
    last.assign(last * 4)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_of_keras_2(name, tmp_path):
    tf_keras.backend.clear_session()
    tf_keras.utils.set_random_seed(0)
    model = MODELS[name]()
    pixels = samples.random_images(4, model.input_shape[1:]).astype(np.float32) / np.float32(255)
    pixels *= np.linspace(0.1, 1, 4, dtype=np.float32)[:, None, None, None]
    expected = settled(model, pixels * 255)(pixels * 255, training=False).numpy()
    assert np.ptp(expected, axis=0).max() > 0.01
    for suffix in ("h5", "keras"):
        path = str(tmp_path / f"model.{suffix}")
        model.save(path)
        found = load_classifier(path, Preprocessing("byte"))
        logits, moved = odin(found.logits, tf.constant(pixels), OdinSettings())
        got = logits if found.head == "linear" else tf.nn.softmax(logits)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
        assert np.isfinite(moved).all()
        # The last layer of MobileNetV3 is a convolution.
        assert (found.last_layer is None) == (name == "MobileNetV3Small")


def described(class_name, settings, **more):
    return {"class_name": class_name, "config": {"name": "it", **settings}, "name": "it", **more}


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            described("GRU", {"time_major": True}),
            "its layer it has time_major True, which Keras 3 does not have",
        ),
        (described("DepthwiseConv2D", {"groups": 2}), "its layer it has groups 2"),
        (described("TFOpLambda", {"function": "linalg.inv"}, inbound_nodes=[]), "is TensorFlow's function linalg.inv"),
        (described("SlicingOpLambda", {}, inbound_nodes=[]), "cuts a slice out of a tensor"),
    ],
)
def test_what_keras_3_does_not_have_is_named_with_the_way_around(part, message):
    with pytest.raises(Untranslatable, match=message) as caught:
        translated({"layers": [part]})
    assert "save it as a SavedModel" in str(caught.value)


def test_a_description_of_keras_2_is_held_to_the_same_list(tmp_path):
    inputs = layers.Input((16, 16, 3))
    x = layers.Lambda(lambda x: x * 2)(inputs)
    model = tf_keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    for suffix in ("h5", "keras"):
        path = str(tmp_path / f"model.{suffix}")
        model.save(path)
        with pytest.raises(ClassifierError, match="Lambda is not"):
            load_classifier(path)
