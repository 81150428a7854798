"""A Keras model file becomes a function from pixels in [0, 1] to logits, on the device.

The model is untrusted: it is read from any file system into a local copy, and loaded in Keras' safe mode, so that it
cannot bring code of its own.
"""

import hashlib
import io
import os
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace

import keras
import numpy as np
import tensorflow as tf

from transforms import storage

NAMED_PREPROCESSING = ("unit", "byte", "tf", "torch", "caffe")
_TORCH_MEAN, _TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


class ClassifierError(Exception):
    """The model cannot serve as a classifier of images; the message says why and what to do."""


@dataclass(frozen=True)
class Preprocessing:
    """What the model was trained to see, as a function of pixels in [0, 1].

    Attributes:
      name: `unit` [0, 1] as they are; `byte` [0, 255]; `tf` [-1, 1]; `torch` ImageNet mean and std; `caffe` BGR bytes
        minus the ImageNet mean; `mean_std` the two below. As `mode` in `keras.applications.imagenet_utils`.
      mean: per channel, in [0, 1] units; only with `mean_std`.
      std: per channel, in [0, 1] units, > 0; only with `mean_std`.
    """

    name: str = "unit"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self):
        if self.name == "mean_std":
            if not self.mean or len(self.mean) != len(self.std):
                raise ValueError("mean and std need one number per channel each")
            if not all(np.isfinite(self.mean)) or not all(np.isfinite(self.std)) or min(self.std) <= 0:
                raise ValueError("mean and std must be finite, and std above 0")
        elif self.name not in NAMED_PREPROCESSING:
            raise ValueError(f"preprocessing is one of {', '.join(NAMED_PREPROCESSING)}, not {self.name!r}")

    def channels(self) -> tuple[int, ...]:
        """The channel counts it is defined for."""
        if self.name == "mean_std":
            return (len(self.mean),)
        return (3,) if self.name in ("torch", "caffe") else (1, 3)

    def apply(self, pixels: tf.Tensor) -> tf.Tensor:
        """float32 [N, H, W, C] in [0, 1] -> what the model expects, same shape and dtype."""
        match self.name:
            case "unit":
                return pixels
            case "byte":
                return pixels * 255.0
            case "tf":
                return pixels * 2.0 - 1.0
            case "torch":
                return (pixels - tf.constant(_TORCH_MEAN)) / tf.constant(_TORCH_STD)
            case "caffe":
                return pixels[..., ::-1] * 255.0 - tf.constant(_CAFFE_MEAN_BGR)
            case "mean_std":
                return (pixels - tf.constant(self.mean, tf.float32)) / tf.constant(self.std, tf.float32)


@dataclass(frozen=True, eq=False)
class Classifier:
    """A loaded model together with the preprocessing it is used with.

    Attributes:
      model: as loaded.
      model_logits: preprocessed float32 [N, H, W, C] -> float32 logits [N, K], inference mode.
      preprocessing: from pixels in [0, 1] to what the model expects.
      input_shape: (height, width, channels).
      classes: K >= 2.
      head: where the logits were found: `linear`, `softmax in LAYER`, `separate softmax LAYER`, or `probabilities`
        (no logits to be had: `log p` stands in, equal to them up to a constant per image).
    """

    model: keras.Model
    model_logits: Callable[[tf.Tensor], tf.Tensor]
    preprocessing: Preprocessing
    input_shape: tuple[int, int, int]
    classes: int
    head: str

    @property
    def has_logits(self) -> bool:
        return self.head != "probabilities"

    def logits(self, pixels: tf.Tensor) -> tf.Tensor:
        """float32 pixels [N, H, W, C] in [0, 1] -> float32 logits [N, K]."""
        return self.model_logits(self.preprocessing.apply(pixels))

    def preprocessed(self, preprocessing: Preprocessing) -> "Classifier":
        """The same model under another preprocessing.

        Raises:
          ClassifierError: it is not defined for the model's channels.
        """
        if self.input_shape[2] not in preprocessing.channels():
            wanted, there = " or ".join(map(str, preprocessing.channels())), self.input_shape[2]
            raise ClassifierError(
                f"preprocessing {preprocessing.name} is for {wanted} channels, the model's input has {there}"
            )
        return replace(self, preprocessing=preprocessing)


def model_digest(path: str) -> str:
    """SHA-256 of the model file's content, in hex.

    Raises:
      ClassifierError: it cannot be read.
    """
    return hashlib.sha256(_model_bytes(path)).hexdigest()


def _model_bytes(path: str) -> bytes:
    if not path.endswith((".keras", ".h5", ".hdf5")):
        raise ClassifierError(f"model {path}: its name must end in .keras, .h5 or .hdf5")
    try:
        return storage.read_bytes(path)
    except storage.StorageError as e:
        raise ClassifierError(f"model: {e}") from e


def use_gpus_sparingly() -> None:
    """Lets GPU memory grow with need instead of taking all at once; must come before the first use of the GPU."""
    for gpu in tf.config.list_physical_devices("GPU"):
        if not tf.config.experimental.get_memory_growth(gpu):
            tf.config.experimental.set_memory_growth(gpu, True)


def load_classifier(
    path: str, preprocessing: Preprocessing = Preprocessing(), image_size: tuple[int, int] | None = None
) -> Classifier:
    """Loads a `.keras` or `.h5` model and finds its logits.

    Args:
      path: on any file system.
      preprocessing: what the model expects of its input.
      image_size: (height, width), for a model whose input leaves them open.

    Raises:
      ClassifierError: unreadable, not an image classifier, or not matching the other arguments.
    """
    use_gpus_sparingly()
    # Or GPUs round the factors of float32 products to 10 bits (TF32): of a step of epsilon too little is left.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    return as_classifier(_load_keras(path), preprocessing, image_size)


def _load_keras(path: str) -> keras.Model:
    data = _model_bytes(path)
    if path.endswith(".keras") and not zipfile.is_zipfile(io.BytesIO(data)):
        raise ClassifierError(f"model {path} cannot be loaded: it is no .keras file, or its end is missing")
    with tempfile.TemporaryDirectory(prefix="odin-beam-model-") as folder:
        local = os.path.join(folder, "model" + os.path.splitext(path)[1])
        with open(local, "wb") as stream:
            stream.write(data)
        try:
            model = keras.models.load_model(local, compile=False, safe_mode=True)
        except Exception as e:
            raise ClassifierError(f"model {path} cannot be loaded: {_reason(e, local)}") from e
    if not isinstance(model, keras.Model):
        raise ClassifierError(f"model {path} holds a {type(model).__name__}, not a Keras model")
    _compute_in_float32(model, path)
    return model


def _reason(error: Exception, local: str) -> str:
    """Keras' own words in one line; of errors about errors the innermost, without the configurations between."""
    text = str(error).rpartition("Exception encountered: ")[2].replace(local, "the file")
    return " ".join(text.split())[:400] or type(error).__name__


def _compute_in_float32(model: keras.Model, path: str) -> None:
    """Has a mixed-precision model compute with its weights as they are stored: 16 bits cannot hold a step of epsilon.

    Raises:
      ClassifierError: the weights themselves have 16 bits.
    """
    if any(weight.dtype in ("float16", "bfloat16") for weight in model.weights):
        raise ClassifierError(
            f"model {path} has 16-bit weights; 16 bits cannot hold a step of epsilon: save it in float32"
        )
    for layer in model._flatten_layers():
        if layer.dtype_policy.name in ("mixed_float16", "mixed_bfloat16"):
            layer.dtype_policy = "float32"


def as_classifier(
    model: keras.Model, preprocessing: Preprocessing = Preprocessing(), image_size: tuple[int, int] | None = None
) -> Classifier:
    """A `Classifier` from a Keras model in memory; arguments and errors as in `load_classifier`."""
    input_shape = _input_shape(model, image_size)
    classes = _output_classes(model)
    logits_model, head = find_logits(model)

    def model_logits(inputs: tf.Tensor) -> tf.Tensor:
        return tf.cast(logits_model(inputs, training=False), tf.float32)

    plain = Classifier(model, model_logits, Preprocessing(), input_shape, classes, head).preprocessed(preprocessing)
    probe = tf.constant(np.random.default_rng(0).uniform(size=(4, *input_shape)), tf.float32)
    outputs = plain.logits(probe).numpy()
    _check_independence(outputs[:1], plain.logits(probe[:1]).numpy())
    if _are_probabilities(outputs):
        return replace(plain, model_logits=lambda i: _log_probabilities(model_logits(i)), head="probabilities")
    if _are_probabilities(np.exp(np.minimum(outputs, 1))):
        return replace(plain, head="probabilities")
    return plain


def _input_shape(model: keras.Model, image_size: tuple[int, int] | None) -> tuple[int, int, int]:
    inputs = getattr(model, "inputs", None) or []
    shape = tuple(inputs[0].shape) if len(inputs) == 1 else None
    if shape is None or len(shape) != 4 or shape[3] not in (1, 3):
        described = shape if len(inputs) == 1 else f"{len(inputs)} inputs"
        raise ClassifierError(f"the model's input is {described}; images need one of shape (None, H, W, 1 or 3)")
    if inputs[0].dtype not in ("float32", "float64"):
        raise ClassifierError(f"the model's input is {inputs[0].dtype}; a step of epsilon needs one of float32")
    if shape[0] is not None:
        raise ClassifierError(f"the model's input is {shape}: its batch size is fixed; save it with an open one")
    fixed = tuple(shape[1:3])
    if None in fixed and image_size is None:
        raise ClassifierError(f"the model's input is {shape}: give its height and width as --image_size H,W")
    size = tuple(f or g for f, g in zip(fixed, image_size or fixed, strict=True))
    if image_size is not None and size != image_size:
        raise ClassifierError(f"--image_size {image_size[0]},{image_size[1]} contradicts the model's input {shape}")
    return (*size, shape[3])


def _output_classes(model: keras.Model) -> int:
    outputs = getattr(model, "outputs", None) or []
    shape = tuple(outputs[0].shape) if len(outputs) == 1 else None
    if shape is None or len(shape) != 2 or shape[1] is None or shape[1] < 2:
        described = shape if len(outputs) == 1 else f"{len(outputs)} outputs"
        raise ClassifierError(
            f"the model's output is {described}; it must be one vector of 2 or more classes, (None, K)"
        )
    return shape[1]


def find_logits(model: keras.Model) -> tuple[keras.Model, str]:
    """The same model ending in its logits, whatever kind of head it has, and a word on where they were.

    Taking a softmax of softmax outputs for ODIN's is the classic mistake. A softmax inside the last Dense layer is
    left out of a copy of that layer; a separate softmax of any name is left out of the model. So is log_softmax. A head
    inside a nested model is found too.

    Args:
      model: functional or sequential, with one output [N, K]; it stays as it is.

    Raises:
      ClassifierError: the model ends in one sigmoid per class.
    """
    history = model.outputs[0]._keras_history
    operation = history.operation
    before = operation._inbound_nodes[history.node_index].input_tensors
    if isinstance(operation, keras.Model):
        inner, head = find_logits(keras.Model(operation.inputs, operation.outputs[history.tensor_index]))
        return (model if head == "linear" else keras.Model(model.inputs, inner(before))), head
    if _ends_in(operation, "sigmoid"):
        raise ClassifierError(
            f"the model ends in one sigmoid per class ({operation.name}): any number of labels at once; "
            "scores need classes that exclude each other"
        )
    if not (_ends_in(operation, "softmax") or _ends_in(operation, "log_softmax")):
        return model, "linear"
    if not isinstance(operation, keras.layers.Dense):
        return keras.Model(model.inputs, before[0]), f"separate softmax {operation.name}"
    # A copy, since a layer can serve in several places.
    config = {**operation.get_config(), "name": f"{operation.name}_without_softmax", "activation": "linear"}
    copy = type(operation).from_config(config)
    logits = copy(before[0])
    copy.set_weights(operation.get_weights())
    return keras.Model(model.inputs, logits), f"softmax in {operation.name}"


def _ends_in(operation: keras.Operation, activation: str) -> bool:
    """Whether this is a Dense or Activation layer with that activation, or a layer or operation of that name."""
    if isinstance(operation, keras.layers.Dense | keras.layers.Activation):
        return operation.activation is keras.activations.get(activation)
    # Along another axis than the last, it is not over the classes.
    along_classes = getattr(operation, "axis", -1) in (-1, 1)
    return along_classes and type(operation).__name__ == activation.title().replace("_", "")


def _check_independence(among_others: np.ndarray, alone: np.ndarray) -> None:
    """Refuses a model that mixes the images of a batch, or that draws at random."""
    # Far above what rounding does.
    tolerance = 1e-2 * np.ptp(among_others)
    if np.isfinite(among_others).all() and not np.allclose(among_others, alone, rtol=1e-2, atol=tolerance):
        raise ClassifierError(
            "the model's outputs for an image change with the other images of its batch, or from call to call"
        )


def _are_probabilities(outputs: np.ndarray) -> bool:
    return bool(np.all(outputs >= 0) and np.all(outputs <= 1) and np.allclose(outputs.sum(axis=1), 1, atol=1e-3))


def _log_probabilities(probabilities: tf.Tensor) -> tf.Tensor:
    # The smallest normal float32 keeps the logarithm finite where a probability underflowed.
    return tf.math.log(tf.maximum(probabilities, np.finfo(np.float32).tiny))
