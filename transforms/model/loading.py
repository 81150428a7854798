"""From a model's path to a model in memory: `.keras`, `.h5`, a SavedModel folder, or what a factory makes of a file.

The file is untrusted. It is read from any file system into a local copy and loaded in Keras' safe mode, so that it
cannot bring code of its own. Code of the user's own comes in by a model factory alone.
"""

import importlib
import os
import zipfile

import keras

from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.model.files import local_copy
from odin_beam.transforms.model.saved_model import SavedModel, SavedModelError, load_saved_model

# What describes the layers is text of kilobytes, in the largest models of a few megabytes.
_MAX_CONFIG_BYTES = 1 << 26
# Functions of TensorFlow that people give as `activation=`; a model file knows them by name alone.
_ACTIVATIONS = {
    "softmax_v2": keras.activations.softmax,
    "log_softmax_v2": keras.activations.log_softmax,
    "sigmoid": keras.activations.sigmoid,
    "relu": keras.activations.relu,
    "relu6": keras.activations.relu6,
    "elu": keras.activations.elu,
    "tanh": keras.activations.tanh,
}


def load_model(path: str, factory: str | None = None) -> tuple[keras.Model | SavedModel, str | None]:
    """Loads a model, and computes with it in float32.

    Args:
      path: on any file system.
      factory: `package.module:function`, which is imported and called with the path of a local copy.

    Returns:
      (the model, the name of the reduced-precision policy that it was saved with, or None).

    Raises:
      ClassifierError: it cannot be loaded, or its weights have 16 bits.
    """
    with local_copy(path, any_file=factory is not None) as local:
        if factory is not None:
            model = _from_factory(factory, local)
        elif os.path.isdir(local):
            return _from_saved_model(path, local), None
        else:
            model = _from_keras(path, local)
    if not isinstance(model, keras.Model):
        raise ClassifierError(f"model {path} holds a {type(model).__name__}, not a Keras model")
    return model, _compute_in_float32(model, path)


def _from_keras(path: str, local: str) -> keras.Model:
    if path.endswith(".keras"):
        _check_archive(path, local)
    try:
        return keras.models.load_model(local, custom_objects=_ACTIVATIONS, compile=False, safe_mode=True)
    except Exception as e:
        raise ClassifierError(f"model {path} cannot be loaded: {_reason(e, local)}") from e


def _check_archive(path: str, local: str) -> None:
    """A `.keras` file is a zip archive: sees that it is whole, and that it does not expand without bound."""
    if not zipfile.is_zipfile(local):
        raise ClassifierError(f"model {path} cannot be loaded: it is no .keras file, or its end is missing")
    try:
        with zipfile.ZipFile(local) as archive:
            expanded = {info.filename: info.file_size for info in archive.infolist()}
    except zipfile.BadZipFile as e:
        raise ClassifierError(f"model {path} cannot be loaded: {e}") from e
    text = sum(size for name, size in expanded.items() if name.endswith(".json"))
    whole = sum(expanded.values())
    if text > _MAX_CONFIG_BYTES or whole > 16 * os.path.getsize(local) + _MAX_CONFIG_BYTES:
        raise ClassifierError(f"model {path} cannot be loaded: it would expand to {whole:,} bytes")


def _from_saved_model(path: str, local: str) -> SavedModel:
    try:
        return load_saved_model(local)
    except SavedModelError as e:
        raise ClassifierError(f"model {path} cannot be loaded: {e}") from e


def _from_factory(factory: str, local: str) -> keras.Model:
    module, colon, function = factory.partition(":")
    if not (module and colon and function):
        raise ClassifierError(f"`model_factory` {factory} is not of the form package.module:function")
    try:
        make = getattr(importlib.import_module(module), function)
    except ImportError as e:
        raise ClassifierError(
            f"`model_factory` {factory}: {e}; install that package, or put its folder on PYTHONPATH"
        ) from e
    except AttributeError as e:
        raise ClassifierError(f"`model_factory` {factory}: {e}") from e
    try:
        return make(local)
    except Exception as e:
        # It is the user's own code and may raise anything.
        text = " ".join(str(e).replace(local, "the file").split())[:400]
        raise ClassifierError(f"`model_factory` {factory} failed: {type(e).__name__}: {text}") from e


def _reason(error: Exception, local: str) -> str:
    """Keras' own words in one line; of errors about errors the innermost, without the configurations between."""
    text = str(error).rpartition("Exception encountered: ")[2].replace(local, "the file")
    text = " ".join(text.split())[:400] or type(error).__name__
    own = "custom" in text and ("locate class" in text or "locate function" in text)
    return f"{text} `model_factory` loads layers of your own" if own else text


def _compute_in_float32(model: keras.Model, path: str) -> str | None:
    """Has a mixed-precision model compute with its weights as they are stored: 16 bits cannot hold a step of epsilon.

    Returns:
      The policy that it had, or None.

    Raises:
      ClassifierError: the weights themselves have 16 bits.
    """
    if any(weight.dtype in ("float16", "bfloat16") for weight in model.weights):
        raise ClassifierError(
            f"model {path} has 16-bit weights; 16 bits cannot hold a step of epsilon: save it in float32"
        )
    found = None
    for layer in model._flatten_layers():
        if layer.dtype_policy.name in ("mixed_float16", "mixed_bfloat16"):
            found = layer.dtype_policy.name
            layer.dtype_policy = "float32"
    return found
