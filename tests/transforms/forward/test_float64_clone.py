"""The float64 clone is the same classifier; where it cannot be made, there is none."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from odin_beam.transforms.forward.float64_clone import float64_clone
from odin_beam.transforms.model.classifier import as_classifier, load_classifier
from odin_beam.transforms.model.preprocessing import Preprocessing
from tests.helpers import samples

PIXELS = tf.constant(samples.random_images(4).astype(np.float32) / 255)


def softmax_model():
    model = samples.small_model()
    return keras.Model(model.inputs, keras.layers.Softmax()(model.outputs[0]))


@pytest.mark.parametrize("model", [samples.small_model, softmax_model])
def test_the_clone_gives_the_same_logits_by_float64_layers(model):
    classifier = as_classifier(model(), Preprocessing("torch"))
    clone = float64_clone(classifier)
    assert {layer.compute_dtype for layer in clone.model.layers[1:]} == {"float64"}
    np.testing.assert_allclose(clone.logits(PIXELS), classifier.logits(PIXELS), rtol=1e-4, atol=1e-4)


def test_a_saved_model_has_no_clone(tmp_path):
    samples.small_model().export(tmp_path / "saved", verbose=False)
    assert float64_clone(load_classifier(str(tmp_path / "saved"))) is None
