"""What a model's description may name: all of Keras that computes, and nothing that does more."""

import copy
import functools
import json

import keras
import numpy as np
import pytest
from keras import applications, layers
from keras.src import api_export

from odin_beam.transforms import limits
from odin_beam.transforms.model.config_check import RefusedConfig, check_config, read_config, without_training
from tests.by_hand import model_configs

# Those with layers or operations of their own; `tests/by_hand/model_configs.py` takes all of them.
FAMILIES = ["ConvNeXtTiny", "EfficientNetB0", "InceptionResNetV2", "MobileNetV3Small", "NASNetMobile", "Xception"]


def described(model):
    return json.loads(model.to_json())


def small(*more):
    """A description of a small model, with layers in its middle."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(2, 3, activation="relu", name="conv")(inputs)
    for layer in more:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(2, name="last")(layers.Flatten()(x)))


@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_keras_applications_are_accepted(name):
    with keras.StatelessScope():
        model = getattr(applications, name)(weights=None, input_shape=(96, 96, 3), classes=3)
    check_config(described(model))


def transfer_learning():
    base = small()
    base.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, layers.Dense(3)(layers.Dropout(0.2)(base(inputs, training=False))))


def operations():
    inputs = keras.Input((8, 8, 3))
    x = (inputs[..., ::-1] / 255 - np.array([0.4, 0.5, 0.6], "float32")) * 2.0
    x = keras.ops.pad(keras.ops.image.resize(x, (4, 4)), [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect")
    x = keras.activations.relu(x, max_value=6.0)
    x = keras.ops.where(x > 0, x, keras.ops.cast(0.1 * x, "float32"))
    x = keras.ops.concatenate([x, keras.ops.mean(x, axis=-1, keepdims=True)], axis=-1)
    return keras.Model(inputs, layers.Dense(3)(keras.ops.einsum("bhwc->bc", x)))


def wrappers():
    inputs = keras.Input((4, 8, 8, 3))
    x = layers.Bidirectional(layers.LSTM(3))(layers.TimeDistributed(small())(inputs))
    return keras.Model(inputs, layers.Dense(2, kernel_regularizer="l2", kernel_constraint="max_norm")(x))


def augmentation():
    ahead = [layers.RandomFlip("horizontal"), layers.RandomRotation(0.1, seed=2**40), layers.RandomContrast(0.2)]
    return keras.Sequential([keras.Input((8, 8, 3)), keras.Sequential(ahead), layers.Flatten(), layers.Dense(2)])


def attention():
    inputs = keras.Input((8, 8, 3))
    x = layers.Reshape((64, 3))(inputs)
    x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 4)(x, x, use_causal_mask=False))
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling1D()(x)))


def reduced_precision():
    return small(layers.Conv2D(2, 3, dtype="mixed_bfloat16"), layers.BatchNormalization(), layers.LeakyReLU())


@pytest.mark.parametrize(
    "make",
    [transfer_learning, operations, wrappers, augmentation, attention, reduced_precision],
    ids=lambda f: f.__name__,
)
def test_ordinary_models_are_accepted(make):
    check_config(without_training(described(make())))


@functools.cache
def small_text():
    return small().to_json()


def small_config():
    return json.loads(small_text())


def lambda_of(function):
    """The description of a model whose lambda layer calls a function with arguments of the file's choice."""
    config = small_config()
    calls = [{"args": ["/tmp/odin-beam-was-here"], "kwargs": {}}]
    layer = {"module": "keras.layers", "class_name": "Lambda", "registered_name": None, "name": "l"}
    config["config"]["layers"].append({**layer, "config": {"name": "l", "function": function}, "inbound_nodes": calls})
    return config


def exported():
    """(module, name, object) of everything that Keras exports."""
    for path, symbol in sorted(api_export.REGISTERED_NAMES_TO_OBJS.items()):
        module, _, name = path.rpartition(".")
        yield module, name, symbol


def test_no_exported_function_can_be_called_by_a_lambda():
    functions = [(module, name) for module, name, symbol in exported() if callable(symbol)]
    assert len(functions) > 1000
    for module, name in functions:
        function = {"module": module, "class_name": "function", "config": name, "registered_name": name}
        with pytest.raises(RefusedConfig):
            check_config(lambda_of(function))


def test_only_activations_are_taken_for_functions():
    """As an `activation`, or anywhere else where Keras would look a function up and call it."""
    accepted = set()
    for module, name, symbol in exported():
        config = small_config()
        function = {"module": module, "class_name": "function", "config": name, "registered_name": name}
        config["config"]["layers"][1]["config"]["activation"] = function
        try:
            check_config(config)
        except RefusedConfig:
            continue
        assert symbol is getattr(keras.activations, name)
        accepted.add(name)
    assert {"relu", "softmax", "gelu"} < accepted
    assert not accepted & {"get", "deserialize", "serialize"}


def test_every_exported_class_is_built_or_refused(tmp_path, monkeypatch):
    """None of those accepted reads a file, is given a function, or belongs to another framework."""
    monkeypatch.chdir(tmp_path)
    built = []
    for module, name, symbol in exported():
        if not isinstance(symbol, type):
            continue
        part = {"module": module, "class_name": name, "config": {}, "registered_name": None}
        try:
            check_config(part)
        except RefusedConfig:
            continue
        try:
            keras.saving.deserialize_keras_object(copy.deepcopy(part), safe_mode=True)
        except Exception as e:
            # Most need arguments.
            assert isinstance(e, TypeError | ValueError | KeyError), (name, e)
        built.append(name)
    assert {"Dense", "Conv2D", "InputLayer", "GlorotUniform", "L2"} < set(built)
    forbidden = "Lambda TFSMLayer JaxLayer FlaxLayer TorchModuleWrapper StringLookup IntegerLookup TextVectorization"
    assert not set(built) & set(forbidden.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["Map", "Scan", "Cond", "WhileLoop", "VectorizedMap", "ForiLoop", "Switch"])
def test_operations_that_call_functions_are_refused(name):
    part = {"module": "keras.src.ops.core", "class_name": name, "config": {}, "registered_name": name}
    with pytest.raises(RefusedConfig, match=f"keras.src.ops.core.{name} is not built from a model file"):
        check_config({"layers": [part]})


def last_call(config):
    return config["config"]["layers"][-1]["inbound_nodes"][0]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("/etc/passwd", "has the text /etc/passwd as an argument"),
        ({"class_name": "__bytes__", "config": {"value": "x"}}, "has __bytes__ as an argument"),
        ({"class_name": "__lambda__", "config": {"value": ["x", None, None]}}, "has __lambda__ as an argument"),
        ({"module": "keras.layers", "class_name": "TFSMLayer", "config": {}}, "has TFSMLayer as an argument"),
        ({"class_name": "__numpy__", "config": {"value": ["x"], "dtype": "float32"}}, "something else than numbers"),
        ({"class_name": "__numpy__", "config": {"value": [1], "dtype": "object"}}, "without a proper dtype"),
        ({"deep": {"er": ["text"]}}, "has the text text"),
    ],
)
def test_arguments_that_are_not_numbers_or_tensors_are_refused(argument, message):
    config = small_config()
    last_call(config)["kwargs"]["mask"] = argument
    with pytest.raises(RefusedConfig, match=message):
        check_config(config)


def test_a_call_without_tensors_which_would_run_at_once_is_refused():
    config = described(operations())
    last_call(config)["args"] = [{"class_name": "__numpy__", "config": {"value": [[1.0]], "dtype": "float32"}}]
    with pytest.raises(RefusedConfig, match="has no tensor among its arguments"):
        check_config(config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["config"]["layers"][1].update(registered_name="other>Conv2D"), "layer other>Conv2D is not one of"),
        (lambda c: c["config"]["layers"][1].update(module="os"), "its layer Conv2D is not one of Keras' own"),
        (lambda c: c["config"]["layers"][1].update(class_name=["Conv2D"]), "an object without a proper name"),
        (lambda c: c["config"]["layers"][1].update(inbound_nodes="all"), "calls of its layer conv are malformed"),
        (lambda c: c["config"]["layers"][1].update(inbound_nodes=[7]), "a call of its layer conv is malformed"),
        (
            lambda c: c["config"]["layers"][1].update(inbound_nodes=[[["x", 0]]]),
            "a call of its layer conv is malformed",
        ),
        (lambda c: c["config"]["layers"][1].update(inbound_nodes=[{}] * 10_001), "more than 10,000 times"),
        (lambda c: c["config"]["layers"][1]["config"].update(filters=10**9), "number 1000000000, too large for a size"),
        (lambda c: c["config"]["layers"][1]["config"].update(seed={"class_name": "TFSMLayer"}), "layer TFSMLayer is"),
    ],
)
def test_descriptions_that_keras_did_not_write_are_refused(change, message):
    config = small_config()
    change(config)
    with pytest.raises(RefusedConfig, match=message):
        check_config(config)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b" " * (limits.MAX_CONFIG_BYTES + 1), "has 8,388,609 bytes; the limit is 8,388,608"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "nested too deeply"),
        (b"[]", "not a JSON object"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
    ],
    ids=["long", "arrays", "objects", "a list", "cut", "no text"],
)
def test_text_that_is_no_description_is_refused(text, message):
    with pytest.raises(RefusedConfig, match=message):
        read_config(text)


def test_mutated_descriptions_are_accepted_or_refused():
    model_configs.fuzz(mutations=500, built=20, seed=1)
