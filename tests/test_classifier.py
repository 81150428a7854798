"""A Keras model file becomes a function from pixels to logits, or one line that says why it cannot."""

import hashlib
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
import samples
import tensorflow as tf
from keras import layers
from keras.applications import imagenet_utils

from transforms import classifier
from transforms.classifier import ClassifierError, Preprocessing, as_classifier, load_classifier

PIXELS = samples.random_images(5).astype(np.float32) / np.float32(255)


def body():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    return inputs, layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, activation="relu")(inputs))


def dense(classes=4, **kwargs):
    return layers.Dense(classes, kernel_initializer=keras.initializers.RandomNormal(0, 8), **kwargs)


def linear():
    inputs, x = body()
    return keras.Model(inputs, dense()(x))


def softmax_in_dense():
    inputs, x = body()
    return keras.Model(inputs, dense(activation="softmax", name="answers")(x))


def activation_of_any_name():
    inputs, x = body()
    return keras.Model(inputs, layers.Activation("softmax", name="whatever")(dense()(x)))


def softmax_layer():
    inputs, x = body()
    return keras.Model(inputs, layers.Softmax(name="last")(dense()(x)))


def sequential():
    return keras.Sequential([keras.Input((8, 8, 3)), layers.Flatten(), dense(activation="softmax")])


def nested_softmax_in_dense():
    return keras.Sequential([keras.Input((8, 8, 3)), layers.Rescaling(1.0), softmax_in_dense()])


def nested_softmax_layer():
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, softmax_layer()(layers.Rescaling(1.0)(inputs)))


def softmax_then_linear_activation():
    inputs, x = body()
    return keras.Model(inputs, layers.Activation("linear", dtype="float32")(dense(activation="softmax")(x)))


def softmax_then_dropout():
    inputs, x = body()
    return keras.Model(inputs, layers.Dropout(0.5)(layers.Softmax()(dense()(x))))


def softmax_as_operation():
    inputs, x = body()
    return keras.Model(inputs, keras.ops.softmax(dense()(x)))


LINEAR = {linear: "linear"}
FOUND = {
    softmax_in_dense: "softmax in answers",
    activation_of_any_name: "separate softmax whatever",
    softmax_layer: "separate softmax last",
    sequential: "softmax in dense",
    nested_softmax_in_dense: "softmax in answers",
    nested_softmax_layer: "separate softmax last",
}
HIDDEN = {
    softmax_then_linear_activation: "probabilities",
    softmax_then_dropout: "probabilities",
    softmax_as_operation: "probabilities",
}


# Keras cannot write bare operations to .h5.
CASES = [(*case, suffix) for case in (LINEAR | FOUND | HIDDEN).items() for suffix in ("keras", "h5")]
CASES.remove((softmax_as_operation, "probabilities", "h5"))


@pytest.mark.parametrize(("make", "head", "suffix"), CASES)
def test_logits_are_found_under_every_head_and_never_a_softmax_of_a_softmax(make, head, suffix, tmp_path):
    keras.backend.clear_session()
    model = make()
    outputs = model(PIXELS, training=False).numpy()
    probabilities = tf.nn.softmax(outputs).numpy() if make is linear else outputs
    found = load_classifier(samples.save_model(model, tmp_path / f"model.{suffix}"))
    assert (found.head, found.has_logits) == (head, head != "probabilities")
    logits = found.logits(tf.constant(PIXELS)).numpy()
    np.testing.assert_allclose(tf.nn.softmax(logits), probabilities, atol=1e-5)
    if make is linear:
        np.testing.assert_allclose(logits, outputs, rtol=1e-5)
    # Logits of these random heads are spread; probabilities taken for logits would not be.
    assert np.ptp(logits, axis=1).max() > 2
    assert (found.input_shape, found.classes) == ((8, 8, 3), 4)


def test_a_sigmoid_or_relu_head_is_not_mistaken_for_probabilities():
    for activation in ("sigmoid", "relu"):
        inputs, x = body()
        model = keras.Model(inputs, layers.Dense(4, activation=activation)(x))
        assert as_classifier(model).head == "linear"


def test_probabilities_that_underflow_give_finite_logarithms():
    inputs, x = body()
    certain = keras.ops.softmax(layers.Dense(3, bias_initializer=keras.initializers.Constant(0))(x) * 1e6)
    assert np.isfinite(as_classifier(keras.Model(inputs, certain)).logits(tf.constant(PIXELS))).all()


@pytest.mark.parametrize("mode", ["tf", "torch", "caffe"])
def test_named_preprocessings_are_those_of_keras_applications(mode):
    expected = imagenet_utils.preprocess_input(PIXELS * 255, data_format="channels_last", mode=mode)
    np.testing.assert_allclose(Preprocessing(mode).apply(tf.constant(PIXELS)), expected, atol=2e-5, rtol=1e-5)


def test_unit_byte_and_mean_std():
    pixels = tf.constant(PIXELS)
    np.testing.assert_array_equal(Preprocessing("unit").apply(pixels), PIXELS)
    np.testing.assert_array_equal(Preprocessing("byte").apply(pixels), PIXELS * np.float32(255))
    own = Preprocessing("mean_std", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    expected = (PIXELS - np.float32([0.5, 0.4, 0.3])) / np.float32([0.2, 0.3, 0.4])
    np.testing.assert_allclose(own.apply(pixels), expected, rtol=1e-6)


def test_preprocessing_is_part_of_the_logits():
    model = linear()
    expected = model(PIXELS * 2 - 1, training=False)
    np.testing.assert_allclose(
        as_classifier(model, Preprocessing("tf")).logits(tf.constant(PIXELS)), expected, rtol=1e-5
    )


def test_dropout_and_batch_normalisation_are_in_inference_mode():
    inputs, x = body()
    model = keras.Model(inputs, dense()(layers.Dropout(0.5)(layers.BatchNormalization()(x))))
    found = as_classifier(model)
    together = found.logits(tf.constant(PIXELS)).numpy()
    np.testing.assert_array_equal(found.logits(tf.constant(PIXELS)), together)
    np.testing.assert_allclose(found.logits(tf.constant(PIXELS[:1])), together[:1], rtol=1e-5)


def test_an_open_input_size_is_taken_from_image_size():
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, dense()(layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3)(inputs))))
    assert as_classifier(model, image_size=(20, 30)).input_shape == (20, 30, 1)
    with pytest.raises(ClassifierError, match="give its height and width as --image_size"):
        as_classifier(model)


def test_a_mixed_precision_model_gives_float32_logits(tmp_path):
    inputs = keras.Input((8, 8, 3))
    x = layers.Flatten(dtype="mixed_bfloat16")(inputs)
    model = keras.Model(inputs, layers.Dense(4, dtype="mixed_bfloat16")(x))
    found = load_classifier(samples.save_model(model, tmp_path / "mixed.keras"))
    assert found.logits(tf.constant(PIXELS)).dtype == tf.float32


def two_inputs():
    a, b = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    return keras.Model([a, b], dense()(layers.Flatten()(layers.Add()([a, b]))))


def two_outputs():
    inputs, x = body()
    return keras.Model(inputs, [dense()(x), dense()(x)])


def of_shape(shape, batch_size=None):
    inputs = keras.Input(shape, batch_size=batch_size)
    return keras.Model(inputs, dense()(layers.Flatten()(inputs)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (two_inputs, "the model's input is 2 inputs"),
        (two_outputs, "the model's output is 2 outputs"),
        (lambda: of_shape((12,)), "images need one of shape"),
        (lambda: of_shape((8, 8, 4)), "images need one of shape"),
        (lambda: of_shape((8, 8, 3), batch_size=2), "its batch size is fixed"),
        (lambda: of_shape((8, 8, 3), batch_size=1), "its batch size is fixed"),
        (lambda: keras.Model(*(lambda i, x: (i, dense(1)(x)))(*body())), "2 or more classes"),
        (lambda: keras.Model(*(lambda i, x: (i, layers.Reshape((2, 2))(dense(4)(x))))(*body())), "2 or more classes"),
    ],
)
def test_a_model_that_is_no_classifier_of_images_is_refused(make, message):
    with pytest.raises(ClassifierError, match=message):
        as_classifier(make())


def test_a_preprocessing_of_other_channels_is_refused():
    with pytest.raises(ClassifierError, match="caffe is for 3 channels, the model's input has 1"):
        as_classifier(of_shape((8, 8, 1)), Preprocessing("caffe"))


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "a folder", "absent"])
def test_a_file_that_is_no_model_is_refused_in_one_line_that_names_it(name, damage, tmp_path):
    path = tmp_path / name
    if damage == "a folder":
        path.mkdir()
    elif damage != "absent":
        whole = samples.save_model(linear(), tmp_path / f"whole-{name}")
        content = {"empty": b"", "garbage": b"garbage" * 99, "truncated": Path(whole).read_bytes()[:2000]}[damage]
        path.write_bytes(content)
    with pytest.raises(ClassifierError) as refused:
        load_classifier(str(path))
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "odin-beam-model-" not in str(refused.value)


def test_a_name_that_is_no_models_is_refused():
    with pytest.raises(ClassifierError, match=r"must end in \.keras, \.h5 or \.hdf5"):
        load_classifier("model.onnx")


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_code_inside_a_model_does_not_run(suffix, tmp_path):
    mark = tmp_path / "it-ran"

    def harmful(x, mark=str(mark)):
        open(mark, "w").close()
        return x

    inputs, x = body()
    model = keras.Model(inputs, dense()(layers.Lambda(harmful)(x)))
    path = samples.save_model(model, tmp_path / f"model.{suffix}")
    mark.unlink()
    with pytest.raises(ClassifierError, match="cannot be loaded"):
        load_classifier(path)
    assert not mark.exists()


def test_a_model_file_cannot_reach_outside_its_own_folder(tmp_path):
    path = samples.save_model(linear(), tmp_path / "model.keras")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../escaped.txt", "x")
    try:
        load_classifier(path)
    except ClassifierError as e:
        assert "cannot be loaded" in str(e)
    assert not list(tmp_path.parent.rglob("escaped.txt"))


def test_the_local_copy_of_a_model_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    load_classifier(samples.save_model(linear(), tmp_path / "model.keras"))
    assert list((tmp_path / "temporary").iterdir()) == []


def test_the_digest_is_of_the_files_content(tmp_path):
    path = samples.save_model(linear(), tmp_path / "model.keras")
    assert classifier.model_digest(path) == hashlib.sha256(Path(path).read_bytes()).hexdigest()
