"""A `.keras` or `.h5` file, untrusted, becomes a Keras model: checked first, allocated last.

First its description of the layers is held to an allow-list, and the sizes of its weights to that of the file. Then
Keras builds the layers without allocating weights, reads the stored ones and compares their shapes. Only then are the
weights allocated.
"""

import io
import json
import math
import os
import shutil
import zipfile
from typing import BinaryIO

import h5py
import keras
from keras.src.backend.common import global_state

from odin_beam.transforms import limits
from odin_beam.transforms.model.config_check import RefusedConfig, check_config, read_config, without_training
from odin_beam.transforms.model.files import IF_TRUSTED
from odin_beam.transforms.model.keras2 import Untranslatable, translated
from odin_beam.transforms.model.weights_check import RefusedWeights, check_declared, check_hdf5

# TensorFlow functions that people pass as `activation=`; a model file stores only their names.
_ACTIVATIONS = {
    "softmax_v2": keras.activations.softmax,
    "log_softmax_v2": keras.activations.log_softmax,
    "sigmoid": keras.activations.sigmoid,
    "relu": keras.activations.relu,
    "relu6": keras.activations.relu6,
    "elu": keras.activations.elu,
    "tanh": keras.activations.tanh,
}
_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"


class KerasFileError(Exception):
    """The file does not contain a usable model; the message says why."""


def load_keras_file(path: str) -> keras.Model:
    """Loads a model without its training configuration.

    Args:
      path: of a local copy, ending in `.keras`, `.h5` or `.hdf5`, which may be changed.

    Raises:
      KerasFileError: damaged, refused, or not a model of Keras 3.
    """
    try:
        (_check_archive if path.endswith(".keras") else _check_legacy)(path)
        return _load(path)
    except (RefusedConfig, RefusedWeights) as e:
        raise KerasFileError(f"{e}; {IF_TRUSTED}") from e
    except Untranslatable as e:
        raise KerasFileError(str(e)) from e
    except KerasFileError:
        raise
    except Exception as e:
        # Keras raises nearly anything on a damaged file.
        raise KerasFileError(_reason(e, path)) from e


def _load(path: str) -> keras.Model:
    """Builds the model and reads its weights; nothing is allocated that the file does not store.

    Within the scope, Keras compares the shapes of stored weights with those declared, and allocates only the former.
    """
    try:
        with keras.StatelessScope(initialize_variables=False) as scope:
            model = keras.models.load_model(path, custom_objects=_ACTIVATIONS, compile=False, safe_mode=True)
        variables = model.variables if isinstance(model, keras.Model) else []
        values = [(variable, scope.get_current_value(variable)) for variable in variables]
        unstored = sum(4 * math.prod(variable.shape) for variable, value in values if value is None)
        if unstored > limits.MAX_CONFIG_BYTES:
            raise RefusedWeights(f"it declares weights of {unstored:,} bytes that it does not store")
    except BaseException:
        # Or the next scope, anywhere in this process, would allocate them.
        global_state.set_global_attribute("uninitialized_variables", [])
        raise
    # Leaving a scope allocates all weights that are not yet allocated.
    with keras.StatelessScope():
        pass
    for variable, value in values:
        if value is not None:
            variable.assign(value)
    return model


def _check_archive(path: str) -> None:
    """Checks a `.keras` file, and removes from it how the models inside the model were trained."""
    if not zipfile.is_zipfile(path):
        raise KerasFileError("it is not a .keras file, or it is truncated")
    size = os.path.getsize(path)
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
        check_declared(sum(info.file_size for info in archive.infolist()), size)
        if missing := {_CONFIG, _WEIGHTS} - set(members):
            raise KerasFileError(f"it has no {sorted(missing)[0]}")
        others = sorted(set(members) - {_CONFIG, _METADATA, _WEIGHTS})
        if others or len(members) < len(archive.infolist()):
            raise KerasFileError(f"it contains more than a model of images: {(others or sorted(members))[0][:80]!r}")
        if (text := max(members[name].file_size for name in members if name != _WEIGHTS)) > limits.MAX_CONFIG_BYTES:
            raise RefusedConfig(f"its description of the layers has {text:,} bytes")
        config = _checked(archive.read(_CONFIG), _version(archive.read(_METADATA) if _METADATA in members else b"{}"))
        check_hdf5(_seekable(archive, members[_WEIGHTS]), size)
        if config is not None:
            _replace_config(path, archive, config)


def _seekable(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> BinaryIO:
    """A member for reading here and there; where it is compressed, each step back would decompress it again."""
    if member.compress_type == zipfile.ZIP_STORED:
        return archive.open(member)
    return io.BytesIO(archive.read(member))


def _replace_config(path: str, archive: zipfile.ZipFile, config: str) -> None:
    with zipfile.ZipFile(f"{path}.new", "w") as changed:
        changed.writestr(_CONFIG, config)
        for name in archive.namelist():
            if name != _CONFIG:
                with archive.open(name) as source, changed.open(name, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    os.replace(f"{path}.new", path)


def _check_legacy(path: str) -> None:
    """Checks an `.h5` file, and removes from it how the models inside the model were trained."""
    check_hdf5(path, os.path.getsize(path))
    with h5py.File(path, "r+") as file:
        if "model_config" not in file.attrs:
            raise KerasFileError("it has weights only, and no description of the layers: save the whole model")
        attribute = file.attrs.get_id("model_config")
        if attribute.shape or attribute.get_storage_size() > limits.MAX_CONFIG_BYTES:
            raise RefusedConfig("its description of the layers is not a text, or too long")
        version = file.attrs.get("keras_version", "")
        version = version.decode() if isinstance(version, bytes) else str(version)
        if (config := _checked(file.attrs["model_config"], version)) is not None:
            file.attrs["model_config"] = config


def _checked(text: bytes | str, version: str) -> str | None:
    """Checks a description; returns what to put in its place, or None to leave it.

    Keras would build losses, optimizers and metrics of the models inside, but leaves out those of the whole.

    Args:
      text: JSON.
      version: of the Keras that wrote it; empty if unknown.
    """
    config = read_config(text)
    config.pop("compile_config", None)
    needed = without_training(config)
    if version.startswith(("1.", "2.")):
        needed = translated(needed)
    check_config(needed, frozenset(_ACTIVATIONS))
    return json.dumps(needed) if needed != config else None


def _version(metadata: bytes) -> str:
    return str(read_config(metadata).get("keras_version", ""))


def _reason(error: Exception, path: str) -> str:
    """Keras' message in one line; for nested errors only the innermost, without the configurations between."""
    text = str(error).rpartition("Exception encountered: ")[2].replace(path, "the file")
    return " ".join(text.split())[:400] or type(error).__name__
