"""A model's files: their paths, their digest, a local copy. Imports no TensorFlow."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator

from odin_beam.transforms import errors
from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.storage import listing, reading

# The end of a message about a file that is refused unread.
IF_TRUSTED = "if you trust the file, load it by a `model_factory`, such as keras.saving:load_model"
_SUFFIXES = (".keras", ".h5", ".hdf5")
_OTHER_FRAMEWORKS = {
    **dict.fromkeys((".pt", ".pth", ".pt2", ".safetensors", ".ckpt"), "PyTorch"),
    ".onnx": "ONNX",
    ".tflite": "TensorFlow Lite",
}
# To a Keras model or a SavedModel.
_WAYS = {
    "": "export it to ONNX, and convert that to a SavedModel, for example with onnx2tf",
    ".onnx": "convert it to a SavedModel, for example with onnx2tf",
    ".tflite": "it cannot be differentiated, so give the model that it was converted from",
}


def model_digest(path: str, any_file: bool = False) -> str:
    """SHA-256, in hex, of the model file's content; for a folder, of its files' names and contents.

    Args:
      path: on any file system.
      any_file: whether a factory builds the model, so that the file may have any name.

    Raises:
      ClassifierError: the model cannot be read.
    """
    files = _files(path, any_file)
    if list(files) == [""]:
        return hashlib.sha256(_read(files[""])).hexdigest()
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{hashlib.sha256(_read(files[name])).hexdigest()}\n".encode())
    return digest.hexdigest()


def _files(path: str, any_file: bool) -> dict[str, str]:
    """Names relative to the model -> paths; a single file has the empty name."""
    if path.endswith(_SUFFIXES):
        return {"": path}
    try:
        if listing.stat_file(os.path.join(path, "saved_model.pb")) is not None:
            return {
                stat.path.removeprefix(path).strip("/"): stat.path
                for stat in listing.list_files(os.path.join(path, "**"))
            }
    except errors.StorageError as e:
        raise ClassifierError(f"model: {e}") from e
    if not any_file:
        suffix = os.path.splitext(path)[1].lower()
        if suffix in _OTHER_FRAMEWORKS:
            raise ClassifierError(
                f"model {path} is a model of {_OTHER_FRAMEWORKS[suffix]}, which is not supported: "
                f"only Keras models and SavedModels are; {_WAYS.get(suffix, _WAYS[''])}"
            )
        raise ClassifierError(
            f"model {path}: its name must end in .keras, .h5 or .hdf5, or it must be the folder of a SavedModel"
        )
    return {"": path}


def _read(path: str) -> bytes:
    try:
        return reading.read_bytes(path)
    except errors.StorageError as e:
        raise ClassifierError(f"model: {e}") from e


@contextlib.contextmanager
def local_copy(path: str, any_file: bool) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="odin-beam-model-") as folder:
        root = os.path.join(folder, "model" + os.path.splitext(path)[1])
        for name, remote in _files(path, any_file).items():
            local = os.path.normpath(os.path.join(root, name))
            if os.path.commonpath([root, local]) != root:
                raise ClassifierError(f"model {path}: the file name {name} leads out of its folder")
            os.makedirs(os.path.dirname(local), exist_ok=True)
            with open(local, "wb") as stream:
                stream.write(_read(remote))
        yield root
