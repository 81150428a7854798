"""A Keras model file becomes a function from pixels to logits, or one line that says why it cannot."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from keras.applications import imagenet_utils
from scipy import special

from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.model import classifier, heads
from odin_beam.transforms.model.classifier import as_classifier, load_classifier
from odin_beam.transforms.model.preprocessing import Preprocessing
from tests.helpers import samples

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


def softmax_then_reshape():
    inputs, x = body()
    return keras.Model(inputs, layers.Reshape((4,))(layers.Softmax()(dense()(x))))


def softmax_layer_as_activation():
    inputs, x = body()
    return keras.Model(inputs, dense(activation=layers.Softmax())(x))


def softmax_in_a_recurrence():
    """Without its softmax it would be another network."""
    inputs = keras.Input((8, 8, 3))
    rows = layers.Reshape((8, 24))(inputs)
    return keras.Model(inputs, layers.SimpleRNN(4, activation="softmax", kernel_initializer="random_normal")(rows))


def softmax_as_operation():
    inputs, x = body()
    return keras.Model(inputs, keras.ops.softmax(dense()(x)))


def softmax_by_hand():
    inputs, x = body()
    powers = keras.ops.exp(dense()(x))
    return keras.Model(inputs, powers / keras.ops.sum(powers, axis=1, keepdims=True))


def layer_used_twice():
    """The last layer has a softmax in an earlier place too, where it must stay."""
    inputs, x = body()
    last = dense(activation="softmax", name="answers")
    return keras.Model(inputs, last(last(layers.Dense(4)(x))))


def nested_model_used_twice():
    inputs, x = body()
    last = keras.Sequential([keras.Input((4,)), dense(), layers.Softmax(name="last")])
    return keras.Model(inputs, last(last(layers.Dense(4)(x))))


def second_output_of_a_nested_model():
    inputs, x = body()
    inner = keras.Model(inputs, [dense(3, activation="softmax")(x), dense(activation="softmax", name="answers")(x)])
    outer = keras.Input((8, 8, 3))
    return keras.Model(outer, inner(outer)[1])


def linear_second_output_of_a_nested_model():
    inputs, x = body()
    inner = keras.Model(inputs, [dense(activation="softmax")(x), dense()(x)])
    outer = keras.Input((8, 8, 3))
    return keras.Model(outer, inner(outer)[1])


def log_softmax_in_dense():
    inputs, x = body()
    return keras.Model(inputs, dense(activation="log_softmax", name="answers")(x))


def log_softmax_then_reshape():
    inputs, x = body()
    return keras.Model(inputs, layers.Reshape((4,))(layers.Activation("log_softmax")(dense()(x))))


HEADS = {
    linear: "linear",
    linear_second_output_of_a_nested_model: "linear",
    softmax_in_dense: "softmax in answers",
    activation_of_any_name: "separate softmax whatever",
    softmax_layer: "separate softmax last",
    sequential: "softmax in dense",
    nested_softmax_in_dense: "softmax in answers",
    nested_softmax_layer: "separate softmax last",
    layer_used_twice: "softmax in answers",
    nested_model_used_twice: "separate softmax last",
    second_output_of_a_nested_model: "softmax in answers",
    log_softmax_in_dense: "softmax in answers",
    softmax_as_operation: "separate softmax softmax",
    softmax_by_hand: "probabilities",
    softmax_then_linear_activation: "softmax in dense",
    softmax_then_dropout: "separate softmax softmax",
    softmax_then_reshape: "separate softmax softmax",
    softmax_layer_as_activation: "probabilities",
    softmax_in_a_recurrence: "probabilities",
    log_softmax_then_reshape: "separate softmax activation",
}
# Keras writes arithmetic to .h5, but does not read it.
CASES = [(*case, suffix) for case in HEADS.items() for suffix in ("keras", "h5")]
CASES.remove((softmax_by_hand, "probabilities", "h5"))


@pytest.mark.parametrize(("make", "head", "suffix"), CASES)
def test_logits_are_found_under_every_head_and_never_a_softmax_of_a_softmax(make, head, suffix, tmp_path):
    keras.backend.clear_session()
    model = make()
    outputs = model(PIXELS, training=False).numpy()
    has_probabilities = np.all(outputs >= 0) and np.allclose(outputs.sum(axis=1), 1)
    found = load_classifier(samples.save_model(model, tmp_path / f"model.{suffix}"))
    assert (found.head, found.has_logits) == (head, head != "probabilities")
    assert (found.input_shape, found.classes) == ((8, 8, 3), 4)
    logits = found.logits(tf.constant(PIXELS)).numpy()
    # The softmax of logits, of log-softmax outputs or of log-probabilities: in each case the model's own answer.
    probabilities = outputs if has_probabilities else special.softmax(outputs, axis=1)
    np.testing.assert_allclose(special.softmax(logits, axis=1), probabilities, atol=1e-5)
    if head == "linear":
        np.testing.assert_allclose(logits, outputs, rtol=1e-5)
    else:
        # The model in the file says probabilities, and the logits are none.
        assert has_probabilities or np.all(outputs <= 0)
        assert logits.min() < 0 or logits.max() > 1


def test_the_model_in_memory_stays_as_it_is():
    for make in (softmax_in_dense, nested_softmax_in_dense, nested_softmax_layer):
        model = make()
        before = model(PIXELS, training=False).numpy()
        heads = [as_classifier(model).head for _ in range(2)]
        assert heads[0] == heads[1] != "linear"
        np.testing.assert_array_equal(model(PIXELS, training=False), before)


def test_a_softmax_of_a_softmax_is_undone_twice():
    inputs, x = body()
    model = keras.Model(inputs, layers.Softmax()(dense(activation="softmax", name="inner")(x)))
    inner = keras.Model(inputs, model.get_layer("inner").output)
    found = as_classifier(model)
    assert found.head == "probabilities"
    np.testing.assert_allclose(tf.nn.softmax(found.logits(tf.constant(PIXELS))), inner(PIXELS), atol=1e-6)


def sigmoid_in_dense():
    inputs, x = body()
    return keras.Model(inputs, dense(activation="sigmoid", name="tags")(x))


def sigmoid_of_any_name():
    return keras.Sequential([linear(), layers.Activation("sigmoid", name="tags")])


def nested_sigmoid():
    return keras.Sequential([keras.Input((8, 8, 3)), sigmoid_in_dense()])


def sigmoid_per_class_in_pieces():
    inputs, x = body()
    return keras.Model(inputs, layers.Concatenate()([dense(1, activation="sigmoid")(x) for _ in range(3)]))


def hard_sigmoid():
    inputs, x = body()
    return keras.Model(inputs, dense(activation="hard_sigmoid")(x))


def rescaled_sigmoid():
    inputs, x = body()
    return keras.Model(inputs, layers.Rescaling(0.5)(dense(activation="sigmoid")(x)))


def test_a_sigmoid_behind_a_layer_of_training_alone_is_seen():
    inputs, x = body()
    model = keras.Model(inputs, layers.GaussianNoise(0.1)(dense(activation="sigmoid", name="tags")(x)))
    with pytest.raises(ClassifierError, match=r"one sigmoid per class \(tags\)"):
        as_classifier(model)


@pytest.mark.parametrize("make", [sigmoid_per_class_in_pieces, hard_sigmoid, rescaled_sigmoid])
def test_what_looks_like_sigmoids_behind_a_head_that_is_not_understood_is_refused(make):
    with pytest.raises(ClassifierError, match="like those of one sigmoid per class"):
        as_classifier(make())


def test_two_outputs_of_one_name_are_refused():
    inputs, x = body()
    heads = [layers.Identity(name="a")(dense()(x)), layers.Identity(name="b")(dense()(x))]
    model = keras.Model(inputs, heads)
    model.output_names = ["same", "same"]
    with pytest.raises(ClassifierError, match="two outputs called 'same'"):
        as_classifier(model)


def test_a_subclassed_model_as_last_layer_is_taken_as_it_is():
    class Head(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = dense()

        def call(self, x):
            return self.dense(x)

    inputs, x = body()
    found = as_classifier(keras.Model(inputs, Head()(x)))
    assert (found.head, found.last_layer) == ("linear", None)


def test_a_model_whose_image_fits_no_memory_is_refused(tmp_path, monkeypatch):
    def too_large(*_):
        raise MemoryError

    path = samples.save_model(samples.small_model(), tmp_path / "m.keras")
    monkeypatch.setattr(classifier, "as_classifier", too_large)
    with pytest.raises(ClassifierError, match="needs more memory for one image than is available"):
        classifier.load_classifier(path)


@pytest.mark.parametrize("make", [sigmoid_in_dense, sigmoid_of_any_name, nested_sigmoid])
def test_one_sigmoid_per_class_is_refused(make):
    with pytest.raises(ClassifierError, match=r"one sigmoid per class \(tags\)"):
        as_classifier(make())


@pytest.mark.parametrize(
    "outputs",
    [
        pytest.param([[0.1, 0.9, 0.3], [0.2, 0.7, 0.1]], id="in [0, 1] like sigmoids"),
        pytest.param([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]], id="one-hot-like rectified ones, one image without any"),
        pytest.param([[0.0, 1.0, 0.0], [0.0, 1.01, 0.0]], id="one-hot-like rectified ones, one above 1"),
        pytest.param([[0.5, 0.7, -0.2], [0.5, 0.7, -0.2]], id="that sum to 1, one negative"),
        pytest.param([[np.nan, 1.0, 0.0], [0.0, 1.0, 0.0]], id="NaN"),
    ],
)
def test_logits_that_look_almost_like_probabilities_are_taken_for_logits(outputs):
    assert not heads._are_probabilities(np.float32(outputs))


def test_a_rectified_head_is_taken_for_logits():
    inputs, x = body()
    assert as_classifier(keras.Model(inputs, dense(activation="relu")(x))).head == "linear"


def test_probabilities_that_underflow_give_finite_logarithms_and_a_gradient():
    inputs, x = body()
    spread = dense(3, bias_initializer=keras.initializers.Constant([0, 200, 400]))(x)
    powers = keras.ops.exp(spread - keras.ops.max(spread, axis=1, keepdims=True))
    found = as_classifier(keras.Model(inputs, powers / keras.ops.sum(powers, axis=1, keepdims=True)))
    assert found.head == "probabilities"
    pixels = tf.constant(PIXELS)
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        logits = found.logits(pixels)
    np.testing.assert_allclose(logits[:, :2], np.log(np.finfo(np.float32).tiny), rtol=1e-6)
    assert np.isfinite(tape.gradient(logits, pixels)).all()


def test_an_image_of_nan_has_no_finite_log_probabilities():
    found = as_classifier(softmax_by_hand())
    logits = found.logits(tf.constant(np.where(np.arange(5)[:, None, None, None] == 2, np.nan, PIXELS))).numpy()
    np.testing.assert_array_equal(np.isnan(logits).all(axis=1), np.arange(5) == 2)


def softmax_over_the_images():
    inputs, x = body()
    return keras.Model(inputs, layers.Softmax(axis=0)(dense()(x)))


def logits_relative_to_the_batch():
    inputs, x = body()
    logits = dense()(x)
    return keras.Model(inputs, logits - keras.ops.mean(logits, axis=0, keepdims=True))


@pytest.mark.filterwarnings("ignore:You are using a softmax over axis 0")
@pytest.mark.parametrize("make", [softmax_over_the_images, logits_relative_to_the_batch])
def test_a_model_that_mixes_the_images_of_a_batch_is_refused(make):
    with pytest.raises(ClassifierError, match="change with the other images"):
        as_classifier(make())


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


@pytest.mark.parametrize("name", ["unit", "byte", "caffe"])
def test_reversed_channels_are_reversed_before_all_else(name):
    reversed_ = Preprocessing(name).reversed()
    assert reversed_.reversed() == Preprocessing(name)
    expected = Preprocessing(name).apply(tf.constant(PIXELS[..., ::-1]))
    np.testing.assert_array_equal(reversed_.apply(tf.constant(PIXELS)), expected)


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


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((), (), "one number per channel"),
        ((0.5,), (0.5, 0.5), "one number per channel"),
        ((0.5,), (0.0,), "above 0"),
        ((np.nan,), (1.0,), "finite"),
        ((0.5,), (np.inf,), "finite"),
    ],
)
def test_a_mean_and_std_that_cannot_be_are_refused(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing("mean_std", mean, std)


def test_a_preprocessing_of_unknown_name_is_refused():
    with pytest.raises(ValueError, match="one of unit, byte, tf, torch, caffe, not 'imagenet'"):
        Preprocessing("imagenet")


def open_size(height=None, width=None):
    inputs = keras.Input((height, width, 1))
    return keras.Model(inputs, dense()(layers.GlobalAveragePooling2D()(layers.Conv2D(3, 3)(inputs))))


def test_an_open_input_size_is_taken_from_image_size():
    found = as_classifier(open_size(), image_size=(20, 30))
    assert found.input_shape == (20, 30, 1)
    assert found.logits(tf.zeros((2, 20, 30, 1))).shape == (2, 4)
    assert as_classifier(open_size(height=20), image_size=(20, 30)).input_shape == (20, 30, 1)
    assert as_classifier(open_size(20, 30), image_size=(20, 30)).input_shape == (20, 30, 1)
    with pytest.raises(ClassifierError, match="give its height and width as `image_size`"):
        as_classifier(open_size())


@pytest.mark.parametrize("size", [(20, 30), (30, None), (None, 20)])
def test_an_image_size_that_contradicts_the_model_is_refused(size):
    with pytest.raises(ClassifierError, match="`image_size` 30,20 contradicts"):
        as_classifier(open_size(*[{20: 21, 30: 31}.get(n) for n in size]), image_size=(30, 20))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_a_mixed_precision_model_computes_in_float32(policy, suffix, tmp_path):
    def make(dtype):
        inputs = keras.Input((8, 8, 3))
        x = layers.Rescaling(4.0, offset=-2.0, dtype=dtype)(inputs)
        nested = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(6, 3, activation="relu", dtype=dtype)])
        x = layers.BatchNormalization(dtype=dtype)(nested(x))
        x = layers.Dense(4, dtype=dtype)(
            layers.Flatten(dtype=dtype)(x) * 2.0 if suffix == "keras" else layers.Flatten()(x)
        )
        return keras.Model(inputs, layers.Activation("softmax", dtype="float32")(x))

    keras.utils.set_random_seed(0)
    model, exact = make(policy), make("float32")
    exact.set_weights(model.get_weights())
    found = load_classifier(samples.save_model(model, tmp_path / f"model.{suffix}"))
    assert found.has_logits
    assert found.saved_policy == policy
    expected = exact(PIXELS).numpy()
    np.testing.assert_allclose(tf.nn.softmax(found.logits(tf.constant(PIXELS))), expected, rtol=1e-5)
    # Computed as it was trained, it is another model at this tolerance.
    assert np.abs(model(PIXELS).numpy() / expected - 1).max() > 1e-4


def test_weights_of_16_bits_are_refused(tmp_path):
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Dense(4, dtype="float16")(layers.Flatten()(inputs)))
    with pytest.raises(ClassifierError, match="16-bit weights"):
        load_classifier(samples.save_model(model, tmp_path / "model.keras"))


def test_gpus_are_told_to_multiply_in_full_float32(tmp_path):
    tf.config.experimental.enable_tensor_float_32_execution(True)
    load_classifier(samples.save_model(linear(), tmp_path / "model.keras"))
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


def two_inputs():
    a, b = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    return keras.Model([a, b], dense()(layers.Flatten()(layers.Add()([a, b]))))


def two_outputs():
    inputs, x = body()
    return keras.Model(inputs, [dense(name="first")(x), dense(3, activation="softmax", name="second")(x)])


def of_shape(shape, **kwargs):
    inputs = keras.Input(shape, **kwargs)
    return keras.Model(inputs, dense(name="last")(layers.Flatten()(inputs)))


def of_output(*shape):
    inputs, x = body()
    return keras.Model(inputs, layers.Reshape(shape)(dense(math.prod(shape))(x)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (two_inputs, "the model's input is 2 inputs"),
        (two_outputs, "the model has 2 outputs: choose one with `output_name`; available outputs: first, second"),
        (lambda: of_shape((12,)), "images need one of shape"),
        (lambda: of_shape((8, 8, 4)), "images need one of shape"),
        (lambda: of_shape((8, 8, 3), batch_size=2), "its batch size is fixed"),
        (lambda: of_shape((8, 8, 3), batch_size=1), "its batch size is fixed"),
        (lambda: of_shape((8, 8, 3), dtype="uint8"), "the model's input is uint8"),
        (lambda: of_shape((8, 8, 3), dtype="float16"), "the model's input is float16"),
        (lambda: of_output(1), "if it is the logit of two classes, add a sigmoid"),
        (lambda: of_output(), "2 or more classes"),
        (lambda: of_output(2, 2, 3), "2 or more classes"),
    ],
)
def test_a_model_that_is_no_classifier_of_images_is_refused(make, message):
    with pytest.raises(ClassifierError, match=message):
        as_classifier(make())


def sigmoid_unit():
    inputs, x = body()
    return keras.Model(inputs, dense(1, activation="sigmoid", name="cat")(x))


def separate_sigmoid_unit():
    inputs, x = body()
    return keras.Model(inputs, layers.Activation("sigmoid", name="cat")(dense(1)(x)))


def sigmoid_unit_by_operation():
    inputs, x = body()
    return keras.Model(inputs, layers.Reshape((1,))(keras.ops.sigmoid(dense(1)(x))))


@pytest.mark.parametrize(
    ("make", "head"),
    [
        (sigmoid_unit, "sigmoid in cat"),
        (separate_sigmoid_unit, "separate sigmoid cat"),
        (sigmoid_unit_by_operation, "separate sigmoid sigmoid"),
        (lambda: keras.Sequential([keras.Input((8, 8, 3)), sigmoid_unit()]), "sigmoid in cat"),
    ],
)
def test_one_sigmoid_unit_is_the_two_class_logits_0_and_z(make, head):
    keras.backend.clear_session()
    model = make()
    found = as_classifier(model)
    assert (found.head, found.classes, found.has_logits) == (head, 2, True)
    logits = found.logits(tf.constant(PIXELS)).numpy()
    np.testing.assert_array_equal(logits[:, 0], 0)
    np.testing.assert_allclose(special.expit(logits[:, 1:]), model(PIXELS), atol=1e-6)
    assert np.abs(logits[:, 1]).max() > 1


@pytest.mark.parametrize("name", ["first", "second"])
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_one_of_several_outputs_is_chosen_by_name(name, suffix, tmp_path):
    model = two_outputs()
    found = load_classifier(samples.save_model(model, tmp_path / f"model.{suffix}"), output_name=name)
    assert found.classes == {"first": 4, "second": 3}[name]
    expected = dict(zip(("first", "second"), model(PIXELS), strict=True))[name]
    got = found.logits(tf.constant(PIXELS))
    np.testing.assert_allclose(tf.nn.softmax(got) if name == "second" else got, expected, rtol=1e-5)


def test_an_output_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(ClassifierError, match="no output 'third'; available outputs: first, second"):
        as_classifier(two_outputs(), output_name="third")


def test_a_model_that_does_not_say_what_it_takes_is_refused():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ClassifierError, match=r"build it from keras\.Input"):
        as_classifier(Subclassed())


def test_a_preprocessing_of_other_channels_is_refused():
    with pytest.raises(ClassifierError, match="caffe is for 3 channels, the model's input has 1"):
        as_classifier(of_shape((8, 8, 1)), Preprocessing("caffe"))


def pooled(*, dense=1, pooling=layers.GlobalAveragePooling2D, end=()):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = pooling()(layers.Conv2D(6, 3)(inputs))
    for _ in range(dense):
        x = layers.Dense(4)(x)
    for layer in end:
        x = layer(x)
    return keras.Model(inputs, x)


def pooled_inside_a_backbone():
    inputs = keras.Input((8, 8, 3))
    pooled_features = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3)(inputs))
    backbone = keras.Model(inputs, pooled_features)
    return keras.Sequential([keras.Input((8, 8, 3)), backbone, layers.Dropout(0.5), layers.Dense(4)])


def _average_of_all(size):
    """Average pooling over windows of that size, then flattened; the maps are 6 x 6."""
    return lambda: lambda x: layers.Flatten()(layers.AveragePooling2D(size)(x))


def _kept_dimensions():
    return lambda x: layers.Reshape((6,))(layers.GlobalAveragePooling2D(keepdims=True)(x))


def average_inside_a_backbone():
    inputs = keras.Input((8, 8, 3))
    backbone = keras.Model(inputs, layers.AveragePooling2D(6)(layers.Conv2D(6, 3)(inputs)))
    return keras.Sequential([keras.Input((8, 8, 3)), backbone, layers.Flatten(), layers.Dense(4)])


def head_inside_a_nested_model():
    return keras.Sequential([keras.Input((8, 8, 3)), layers.Rescaling(2.0), pooled(end=[layers.Softmax()])])


@pytest.mark.parametrize(
    ("make", "features", "maps"),
    [
        (lambda: pooled(), True, True),
        (lambda: pooled(end=[layers.Softmax()]), True, True),
        (lambda: pooled(end=[layers.Dropout(0.5), layers.Activation("softmax")]), True, True),
        (softmax_in_dense, True, True),
        (pooled_inside_a_backbone, True, True),
        (head_inside_a_nested_model, True, True),
        (lambda: pooled(pooling=_average_of_all(6)), True, True),
        (lambda: pooled(pooling=_kept_dimensions), True, True),
        (average_inside_a_backbone, True, True),
        (lambda: pooled(pooling=_average_of_all(3)), True, False),
        (lambda: pooled(dense=2), True, False),
        (lambda: pooled(pooling=layers.GlobalMaxPooling2D), True, False),
        (lambda: pooled(pooling=layers.Flatten), True, False),
        (lambda: pooled(dense=0), False, False),
        (softmax_by_hand, False, False),
        (sigmoid_unit, False, False),
    ],
)
def test_features_and_maps_are_found_where_the_head_is_dense_behind_average_pooling(make, features, maps):
    found = as_classifier(make(), Preprocessing("byte"))
    assert (found.last_layer is not None) == features
    assert bool(features and found.last_layer.has_maps) == maps
    names = ["odin", "msp", "grad_norm", "cam_var", "cam_max"]
    expected = [] if maps else ["cam_var", "cam_max"] if features else ["grad_norm", "cam_var", "cam_max"]
    assert found.unavailable(names) == expected
    activations = found.activations(tf.constant(PIXELS))
    logits = found.logits(tf.constant(PIXELS))
    np.testing.assert_allclose(activations.logits, logits, rtol=1e-5)
    if features:
        product = activations.features @ activations.kernel + activations.bias
        np.testing.assert_allclose(product, logits, rtol=1e-4, atol=1e-3)
    if maps:
        averages = tf.reduce_mean(activations.maps, axis=(1, 2))
        np.testing.assert_allclose(averages, activations.features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("use_bias", [True, False])
def test_the_last_layer_gives_its_bias_or_zeros(use_bias):
    inputs = keras.Input((8, 8, 3))
    dense = keras.layers.Dense(4, use_bias=use_bias, bias_initializer="ones")
    found = as_classifier(keras.Model(inputs, dense(keras.layers.GlobalAveragePooling2D()(inputs))))
    activations = found.activations(tf.constant(samples.random_images(3).astype(np.float32) / 255))
    np.testing.assert_array_equal(activations.bias, [float(use_bias)] * 4)
    assert found.unavailable(["scale", "ash_b"]) == []


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_a_quantised_model_has_its_logits_but_no_features(bits, tmp_path):
    """The stored kernel of its last layer lacks a scale: with it, maps would be wrong by orders of magnitude."""
    model = pooled()
    model.quantize(bits)
    found = load_classifier(samples.save_model(model, tmp_path / "model.keras"))
    np.testing.assert_allclose(found.logits(tf.constant(PIXELS)), model(PIXELS, training=False), rtol=1e-4, atol=1e-5)
    assert found.unavailable(["msp", "energy", "grad_norm", "cam_var"]) == ["grad_norm", "cam_var"]


def test_a_last_layer_that_does_more_than_multiply_gives_no_features():
    class Scaled(layers.Dense):
        def call(self, x):
            return 2 * super().call(x)

    inputs, x = body()
    assert as_classifier(keras.Model(inputs, dense()(x))).last_layer is not None
    assert as_classifier(keras.Model(inputs, Scaled(4)(x))).last_layer is None
