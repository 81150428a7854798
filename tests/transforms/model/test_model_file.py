"""A model's file, untrusted, becomes a model in memory, or one line says why it cannot."""

import hashlib
import importlib
import io
import json
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
        load_classifier("model.onnx")


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
    with pytest.raises(ClassifierError, match=f"cannot be loaded: Could not .*{harmful['module']}"):
        load_classifier(path)


def test_a_model_of_unknown_layers_is_refused_with_the_layers_name(tmp_path):
    class Homemade(layers.Layer):
        def call(self, x):
            return x

    inputs, x = body()
    path = samples.save_model(keras.Model(inputs, layers.Dense(4)(Homemade()(x))), tmp_path / "model.keras")
    with pytest.raises(ClassifierError, match="cannot be loaded: Could not locate class 'Homemade'"):
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
    with pytest.raises(ClassifierError, match=r"Homemade.*`model_factory` loads layers of your own"):
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
