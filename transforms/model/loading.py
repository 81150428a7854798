"""From a model's path to a model in memory: `.keras`, `.h5`, a SavedModel folder, or what a factory builds from a file.

The file is untrusted. It is read from any file system into a local copy, checked, and only then built by Keras, in safe
mode. The user's own code is loaded only through a model factory.
"""

import importlib
import os

import keras

from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.model.files import local_copy
from odin_beam.transforms.model.keras_file import KerasFileError, load_keras_file
from odin_beam.transforms.model.saved_model import SavedModel, SavedModelError, load_saved_model
from odin_beam.transforms.model.sizes import check_sizes


def load_model(path: str, factory: str | None = None) -> tuple[keras.Model | SavedModel, str | None]:
    """Loads a model and makes it compute in float32.

    Args:
      path: on any file system.
      factory: `package.module:function`, which is imported and called with the path of a local copy.

    Returns:
      (the model, the name of the reduced-precision policy that it was saved with, or None).

    Raises:
      ClassifierError: the model cannot be loaded, or its weights have 16 bits.
    """
    with local_copy(path, any_file=factory is not None) as local:
        if factory is not None:
            model = _from_factory(factory, local)
        elif os.path.isdir(local):
            loaded = _from_saved_model(path, local)
            check_sizes(loaded, path)
            return loaded, None
        else:
            model = _from_keras(path, local)
            check_sizes(model, path)
    if not isinstance(model, keras.Model):
        raise ClassifierError(f"model {path} holds a {type(model).__name__}, not a Keras model")
    return model, _compute_in_float32(model, path)


def _from_keras(path: str, local: str) -> keras.Model:
    try:
        return load_keras_file(local)
    except KerasFileError as e:
        raise ClassifierError(f"model {path} cannot be loaded: {e}") from e


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
        # It is the user's code and may raise anything.
        text = " ".join(str(e).replace(local, "the file").split())[:400]
        raise ClassifierError(f"`model_factory` {factory} failed: {type(e).__name__}: {text}") from e


def _compute_in_float32(model: keras.Model, path: str) -> str | None:
    """Makes a mixed-precision model compute with its weights as stored: 16 bits cannot represent a step of epsilon.

    Returns:
      The model's previous policy, or None.

    Raises:
      ClassifierError: the weights themselves have 16 bits.
    """
    if any(weight.dtype in ("float16", "bfloat16") for weight in model.weights):
        raise ClassifierError(
            f"model {path} has 16-bit weights; 16 bits cannot represent a step of epsilon: save it in float32"
        )
    policy = None
    for layer in model._flatten_layers():
        if layer.dtype_policy.name in ("mixed_float16", "mixed_bfloat16"):
            policy = layer.dtype_policy.name
            layer.dtype_policy = "float32"
    return policy
