"""The architectures of `keras.applications`, each built once: as model files, and as SavedModels."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import applications
from tensorflow.core.protobuf import saved_model_pb2

from odin_beam.transforms.detectors.odin import odin
from odin_beam.transforms.detectors.odin_settings import OdinSettings
from odin_beam.transforms.model.classifier import load_classifier
from odin_beam.transforms.model.preprocessing import Preprocessing
from odin_beam.transforms.model.saved_model import forbidden_operations
from tests.helpers import samples

EFFICIENT_NET, MOBILE_NET = (applications.EfficientNetV2B0, {}), (applications.MobileNetV3Small, {})


@pytest.fixture(scope="module")
def model(request):
    """The architecture for images of 64 x 64 and 10 classes."""
    make, options = request.param
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    return make(weights=None, input_shape=(64, 64, 3), classes=10, **options)


@pytest.mark.parametrize(
    ("model", "head"),
    [
        (EFFICIENT_NET, "softmax in predictions"),
        (MOBILE_NET, "separate softmax"),
        ((applications.ResNet50, {}), "softmax in predictions"),
        ((applications.DenseNet121, {"classifier_activation": None}), "linear"),
        ((applications.VGG16, {}), "softmax in predictions"),
    ],
    indirect=["model"],
    # Or one architecture would be built for one test after the other, instead of once for both.
    scope="module",
    ids=["EfficientNetV2B0", "MobileNetV3Small", "ResNet50", "DenseNet121", "VGG16"],
)
def test_the_architectures_of_keras_applications_are_understood(model, head, tmp_path):
    found = load_classifier(samples.save_model(model, tmp_path / "model.keras"), Preprocessing("byte"))
    assert found.head.startswith(head)
    assert found.input_shape == (64, 64, 3)
    pixels = tf.constant(samples.random_images(2, (64, 64, 3)).astype(np.float32) / np.float32(255))
    expected = model(pixels * 255.0, training=False)
    logits, moved = odin(found.logits, pixels, OdinSettings())
    np.testing.assert_allclose(logits if head == "linear" else tf.nn.softmax(logits), expected, rtol=1e-4, atol=1e-7)
    assert np.isfinite(moved).all()
    assert np.abs(moved - logits).max() > 0


@pytest.mark.parametrize(
    "model", [EFFICIENT_NET, MOBILE_NET], indirect=True, ids=["EfficientNetV2B0", "MobileNetV3Small"]
)
def test_nothing_in_the_models_of_keras_is_refused(model, tmp_path):
    model.export(tmp_path / "m", verbose=False)
    description = saved_model_pb2.SavedModel.FromString((tmp_path / "m/saved_model.pb").read_bytes())
    assert forbidden_operations(description) == []
