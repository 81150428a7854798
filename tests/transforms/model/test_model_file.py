"""A model's file, untrusted, becomes a model in memory, or one line says why it cannot."""

import hashlib
import importlib
import io
import json
import resource
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.model import files
from odin_beam.transforms.model.classifier import load_classifier
from odin_beam.transforms.storage import reading
from tests.helpers import samples

PIXELS = samples.random_images(5).astype(np.float32) / np.float32(255)


def body():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    return inputs, layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, activation="relu")(inputs))


def linear():
    inputs, x = body()
    return keras.Model(inputs, layers.Dense(4)(x))


def flat():
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, layers.Dense(4, name="last")(layers.Flatten()(inputs)))


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.parametrize("damage", ["empty", "garbage", "truncated", "weights only", "a folder", "absent"])
def test_a_file_that_is_no_model_is_refused_in_one_line_that_names_it(name, damage, tmp_path):
    path = tmp_path / name
    if damage == "a folder":
        path.mkdir()
    elif damage == "weights only":
        linear().save_weights(tmp_path / "model.weights.h5")
        (tmp_path / "model.weights.h5").rename(path)
    elif damage != "absent":
        whole = Path(samples.save_model(linear(), tmp_path / f"whole-{name}")).read_bytes()
        path.write_bytes({"empty": b"", "garbage": b"garbage" * 99, "truncated": whole[: len(whole) // 2]}[damage])
    with pytest.raises(ClassifierError) as refused:
        load_classifier(str(path))
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "odin-beam-model-" not in str(refused.value)
    # Keras says so of a file that is there.
    assert "File not found" not in str(refused.value)


def test_a_name_that_is_no_models_is_refused():
    with pytest.raises(ClassifierError, match=r"must end in \.keras, \.h5 or \.hdf5"):
        load_classifier("model.zip")


@pytest.mark.parametrize(
    ("name", "framework", "way"),
    [
        ("model.pth", "PyTorch", "export it to ONNX, and convert that to a SavedModel"),
        ("model.ONNX", "ONNX", "convert it to a SavedModel"),
        ("model.tflite", "TensorFlow Lite", "give the model that it was converted from"),
    ],
)
def test_a_model_of_another_framework_is_named_with_the_way_out(name, framework, way):
    with pytest.raises(ClassifierError, match=f"is a model of {framework}, which is not supported.*{way}"):
        load_classifier(name)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_code_inside_a_model_does_not_run(suffix, tmp_path, monkeypatch):
    mark = tmp_path / "it-ran"
    monkeypatch.setenv("MARK", str(mark))
    inputs, x = body()
    # A lambda, since only of these the code itself is in the file.
    harmful = layers.Lambda(lambda x: (open(__import__("os").environ["MARK"], "w").close(), x)[1], output_shape=(6,))
    model = keras.Model(inputs, layers.Dense(4)(harmful(x)))
    path = samples.save_model(model, tmp_path / f"model.{suffix}")
    # So much for the trap: it works on who trusts the file.
    mark.unlink(missing_ok=True)
    keras.models.load_model(path, safe_mode=False)(PIXELS)
    assert mark.exists()
    mark.unlink()
    with pytest.raises(ClassifierError, match=r"cannot be loaded.*[Ll]ambda"):
        load_classifier(path)
    assert not mark.exists()


def rewritten(path, **parts):
    """A `.keras` file with members replaced, by their names' beginnings."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, parts.get(name.split(".")[0], data))
    return path


@pytest.mark.parametrize(
    "harmful",
    [
        {"module": "os", "class_name": "function", "config": "system", "registered_name": "function"},
        {"module": "subprocess", "class_name": "Popen", "config": {"args": ["true"]}, "registered_name": "Popen"},
    ],
)
def test_a_model_file_that_names_python_functions_does_not_get_them(harmful, tmp_path):
    path = rewritten(samples.save_model(linear(), tmp_path / "model.keras"), config=json.dumps(harmful))
    with pytest.raises(
        ClassifierError, match=r"cannot be loaded: its (function system|layer Popen) is not one of Keras'"
    ):
        load_classifier(path)


def test_a_model_of_unknown_layers_is_refused_with_the_layers_name(tmp_path):
    class Homemade(layers.Layer):
        def call(self, x):
            return x

    inputs, x = body()
    path = samples.save_model(keras.Model(inputs, layers.Dense(4)(Homemade()(x))), tmp_path / "model.keras")
    with pytest.raises(ClassifierError, match="cannot be loaded: its layer Homemade is not one of Keras' own; if"):
        load_classifier(path)


@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_weights_that_declare_a_monstrous_shape_are_refused(tmp_path):
    path = samples.save_model(flat(), tmp_path / "model.keras")
    with zipfile.ZipFile(path) as archive:
        weights = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(weights, "r+") as file:
        del file["layers/dense/vars/0"]
        file["layers/dense/vars"].create_dataset("0", shape=(10**6, 10**6), dtype="f4", chunks=(1000, 1000))
    assert len(weights.getvalue()) < 100_000
    with pytest.raises(ClassifierError, match="cannot be loaded"):
        load_classifier(rewritten(path, model=weights.getvalue()))


def config_of(path):
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


def layer_named(config, name):
    return next(layer for layer in config["config"]["layers"] if layer["config"]["name"] == name)


def test_functions_of_keras_are_not_called_with_arguments_of_the_file(tmp_path):
    config = config_of(samples.save_model(flat(), tmp_path / "model.keras"))
    function = {"module": "keras.visualization", "class_name": "function", "config": "plot_image_gallery"}
    config["config"]["layers"].append(
        {
            **{"module": "keras.layers", "class_name": "Lambda", "registered_name": None, "name": "trap"},
            "config": {"name": "trap", "function": {**function, "registered_name": "plot_image_gallery"}},
            "inbound_nodes": [{"args": [f"{tmp_path}/it-ran"], "kwargs": {}}],
        }
    )
    path = rewritten(str(tmp_path / "model.keras"), config=json.dumps(config))
    with pytest.raises(ClassifierError, match=r"Lambda is not built from a model file.*load it by a `model_factory`"):
        load_classifier(path)


def test_a_model_inside_is_not_compiled(tmp_path):
    """Its losses and metrics would be built, though scoring does not need them."""
    base = linear()
    base.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, layers.Dense(3)(base(inputs, training=False)))
    for suffix in ("keras", "h5"):
        path = samples.save_model(model, tmp_path / f"model.{suffix}")
        found = load_classifier(path)
        np.testing.assert_allclose(found.logits(PIXELS), model(PIXELS), rtol=1e-5)
        assert not any(getattr(layer, "compiled", False) for layer in found.model.layers)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_weights_far_larger_than_those_stored_are_refused_unallocated(suffix, tmp_path):
    """4 GB of weights declared: nothing of that size may be allocated, now or by what is built next."""
    path = samples.save_model(flat(), tmp_path / f"model.{suffix}")
    text = '"units": 4'
    if suffix == "h5":
        with h5py.File(path, "r+") as file:
            assert text in file.attrs["model_config"]
            file.attrs["model_config"] = file.attrs["model_config"].replace(text, '"units": 6000000')
    else:
        config = json.dumps(config_of(path))
        assert text in config
        rewritten(path, config=config.replace(text, '"units": 6000000'))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ClassifierError, match=r"cannot be loaded: .*6000000"):
        load_classifier(path)
    linear()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20


def test_weights_declared_and_not_stored_are_refused_unread(tmp_path):
    path = samples.save_model(flat(), tmp_path / "model.h5")
    with h5py.File(path, "r+") as file:
        file["model_weights"].create_dataset("unwritten", (1 << 15, 1 << 15), "f4", chunks=(64, 64))
    with pytest.raises(ClassifierError, match=r"it would expand to 4,29[0-9,]* bytes"):
        load_classifier(path)


def external(file):
    file["model_weights/other"] = h5py.ExternalLink("/etc/passwd", "/")


def soft(file):
    file["model_weights/other"] = h5py.SoftLink("/model_weights")


def outside(file):
    file["model_weights"].create_dataset("other", (4,), "u1", external=[("/etc/passwd", 0, 4)])


def text(file):
    file["model_weights"].create_dataset("other", data=["text"], dtype=h5py.string_dtype())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external, "its weights are links to other places"),
        (soft, "its weights are links to other places"),
        (outside, "its weights are in other files"),
        (text, "its weights are not numbers"),
    ],
)
def test_weights_that_lie_elsewhere_are_refused(change, message, tmp_path):
    path = samples.save_model(flat(), tmp_path / "model.h5")
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(ClassifierError, match=message):
        load_classifier(path)


def test_groups_that_contain_each_other_do_no_harm(tmp_path):
    path = samples.save_model(flat(), tmp_path / "model.h5")
    with h5py.File(path, "r+") as file:
        file["model_weights/round"] = file["model_weights"]
    assert load_classifier(path).classes == 4


@pytest.mark.parametrize(
    ("shape", "middle", "classes", "message"),
    [
        ((6000, 6000, 3), [], 4, r"input .* 108,000,000 numbers; the limit is 16,777,216"),
        ((8, 8, 3), [layers.UpSampling2D(5000)], 4, r"layer up_sampling2d.* 4,800,000,000 numbers"),
        ((8, 8, 3), [], 300_000, r"output .* 300,000 numbers; the limit is 262,144"),
        ((0, 8, 3), [], 4, r"input .* holds nothing"),
    ],
    ids=["input", "layer", "classes", "nothing"],
)
def test_sizes_beyond_reason_are_refused_with_the_way_out(shape, middle, classes, message, tmp_path):
    inputs = x = keras.Input(shape)
    for layer in middle:
        x = layer(x)
    outputs = layers.Dense(classes)(layers.GlobalMaxPooling2D()(x))
    path = samples.save_model(keras.Model(inputs, outputs), tmp_path / "model.keras")
    with pytest.raises(ClassifierError, match=message):
        load_classifier(path)


def test_a_description_of_many_megabytes_is_refused_unread(tmp_path):
    path = samples.save_model(flat(), tmp_path / "model.keras")
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data + b" " * (1 << 24 if name == "config.json" else 0))
    with pytest.raises(ClassifierError, match="would expand to 16,7"):
        load_classifier(path)


def test_members_that_a_model_of_images_does_not_have_are_refused(tmp_path):
    path = samples.save_model(flat(), tmp_path / "model.keras")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("assets/vocabulary.txt", "words")
    with pytest.raises(ClassifierError, match=r"contains more than a model of images: 'assets/vocabulary\.txt'"):
        load_classifier(path)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.filterwarnings("ignore:Skipping nested container")
def test_weights_that_are_missing_do_not_stay_random(suffix, tmp_path):
    path = samples.save_model(flat(), tmp_path / f"model.{suffix}")
    if suffix == "h5":
        with h5py.File(path, "r+") as file:
            del file["model_weights/last/last/bias"]
    else:
        with zipfile.ZipFile(path) as archive:
            weights = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(weights, "r+") as file:
            del file["layers/dense/vars/1"]
        rewritten(path, model=weights.getvalue())
    with pytest.raises(ClassifierError, match="cannot be loaded"):
        load_classifier(path)


@pytest.mark.filterwarnings("ignore:Skipping invalid path during archive extraction")
def test_a_model_file_cannot_reach_outside_its_own_folder(tmp_path):
    path = samples.save_model(linear(), tmp_path / "model.keras")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../escaped.txt", "x")
    try:
        load_classifier(path)
    except ClassifierError as e:
        assert "cannot be loaded" in str(e)
    assert not list(tmp_path.parent.rglob("escaped.txt"))


def test_a_model_in_the_cloud_is_loaded_from_a_local_copy_that_is_gone_afterwards(tmp_path, monkeypatch):
    content = Path(samples.save_model(linear(), tmp_path / "model.keras")).read_bytes()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    copies = []

    def load_model(local, **kwargs):
        copies.append((Path(local).parent.parent, Path(local).read_bytes()))
        return keras.saving.load_model(local, **kwargs)

    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.setattr(reading, "open_file", lambda path: io.BytesIO({"gs://b/model.keras": content}[path]))
    monkeypatch.setattr(keras.models, "load_model", load_model)
    assert load_classifier("gs://b/model.keras").classes == 4
    assert copies == [(temporary, content)]
    assert list(temporary.iterdir()) == []


def test_the_digest_is_of_the_files_content(tmp_path):
    path = samples.save_model(linear(), tmp_path / "model.keras")
    assert files.model_digest(path) == hashlib.sha256(Path(path).read_bytes()).hexdigest()


FACTORY = """
import keras

class Homemade(keras.layers.Layer):
    def call(self, x):
        return x * 2

def load(path):
    return keras.models.load_model(path, custom_objects={"Homemade": Homemade}, compile=False)

def fails(path):
    raise RuntimeError(f"nothing in {path}")

def text(path):
    return path
"""


@pytest.fixture
def homemade(tmp_path, monkeypatch):
    """A model with a layer of the user's own, and the module that has it."""
    (tmp_path / "homemade_layers.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(tmp_path)
    layer = importlib.import_module("homemade_layers").Homemade()
    inputs, x = body()
    yield samples.save_model(keras.Model(inputs, layers.Dense(4)(layer(x))), tmp_path / "model.keras")
    sys.modules.pop("homemade_layers")


def test_a_factory_brings_the_users_own_layers(homemade):
    with pytest.raises(ClassifierError, match=r"Homemade.*load it by a `model_factory`"):
        load_classifier(homemade)
    found = load_classifier(homemade, factory="homemade_layers:load")
    expected = importlib.import_module("homemade_layers").load(homemade)(PIXELS)
    np.testing.assert_allclose(found.logits(PIXELS), expected, rtol=1e-5)


def test_with_a_factory_the_file_may_have_any_name(homemade, tmp_path):
    Path(homemade).rename(tmp_path / "model.zip")
    (tmp_path / "homemade_layers.py").touch()
    with pytest.raises(ClassifierError, match=r"must end in \.keras"):
        files.model_digest(f"{tmp_path}/model.zip")
    assert len(files.model_digest(f"{tmp_path}/model.zip", any_file=True)) == 64


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("homemade_layers", "not of the form package.module:function"),
        ("no_such_package_here:load", "No module named 'no_such_package_here'; install that package"),
        ("homemade_layers:lode", "has no attribute 'lode'"),
        ("homemade_layers:fails", "failed: RuntimeError: nothing in the file"),
        ("homemade_layers:text", "holds a str, not a Keras model"),
    ],
)
def test_a_factory_that_does_not_work_is_refused_in_one_line(homemade, factory, message):
    with pytest.raises(ClassifierError, match=message):
        load_classifier(homemade, factory=factory)


@pytest.mark.parametrize("activation", [tf.nn.softmax, tf.nn.log_softmax])
def test_tensorflows_functions_as_activations_are_known(activation, tmp_path):
    inputs, x = body()
    path = samples.save_model(keras.Model(inputs, layers.Dense(4, activation=activation)(x)), tmp_path / "m.keras")
    found = load_classifier(path)
    assert found.head.startswith("softmax in ")


def test_an_archive_that_expands_without_bound_is_refused_before_it_is_unpacked(tmp_path):
    path = samples.save_model(linear(), tmp_path / "model.keras")
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/zeros", bytes(200 << 20))
    with pytest.raises(ClassifierError, match="it would expand to"):
        load_classifier(path)
