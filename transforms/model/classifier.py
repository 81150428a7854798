"""Turns a model with any kind of head into a function on the device, from pixels in [0, 1] to logits."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import keras
import numpy as np
import tensorflow as tf

from odin_beam.transforms.detectors.registry import ALL
from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.model import device
from odin_beam.transforms.model.activations import Activations
from odin_beam.transforms.model.heads import keras_head, reading, saved_model_head
from odin_beam.transforms.model.last_layer import LastLayer
from odin_beam.transforms.model.loading import load_model
from odin_beam.transforms.model.preprocessing import Preprocessing
from odin_beam.transforms.model.saved_model import SavedModel


@dataclass(frozen=True, eq=False)
class Classifier:
    """A loaded model together with its preprocessing.

        >>> classifier = odin_beam.load_classifier("classifier.keras")
        >>> classifier.input_shape, classifier.classes
        ((28, 28, 1), 10)

    Attributes:
      model: as loaded, up to the chosen output.
      model_logits: preprocessed float32 [N, H, W, C] -> float32 logits [N, K], in inference mode.
      preprocessing: from pixels in [0, 1] to what the model expects.
      input_shape: (height, width, channels).
      classes: K >= 2.
      head: where the logits were found: `linear`, `softmax in LAYER`, `separate softmax LAYER`, the same with
        `sigmoid` (one unit z, whose two-class logits are [0, z]), or `probabilities` (logits are not available:
        `log p` replaces them, equal to them up to a constant per image).
      saved_policy: the reduced-precision policy that the model was saved with; it computes in float32 anyway.
      last_layer: what the features detectors need; None if the head is not a dense layer that can be inspected.
    """

    model: keras.Model | SavedModel
    model_logits: Callable[[tf.Tensor], tf.Tensor]
    preprocessing: Preprocessing
    input_shape: tuple[int, int, int]
    classes: int
    head: str
    saved_policy: str | None = None
    last_layer: "LastLayer | None" = None

    @property
    def has_logits(self) -> bool:
        return self.head != "probabilities"

    def logits(self, pixels: tf.Tensor) -> tf.Tensor:
        """float32 pixels [N, H, W, C] in [0, 1] -> float32 logits [N, K]."""
        return self.model_logits(self.preprocessing.apply(pixels))

    def activations(self, pixels: tf.Tensor) -> Activations:
        """float32 pixels [N, H, W, C] in [0, 1] -> all results of one forward pass."""
        if self.last_layer is None:
            return Activations(self.logits(pixels))
        return self.last_layer.activations(self.preprocessing.apply(pixels))

    def unavailable(self, names: Iterable[str]) -> list[str]:
        """The names of those detectors for which this model gives no scores."""
        available = {"logits"}
        if self.last_layer is not None:
            available |= {"features", "kernel", "bias"} | ({"maps"} if self.last_layer.has_maps else set())
        detectors = [ALL[name] for name in names]
        return [
            detector.name
            for detector in detectors
            if not available.issuperset(detector.needs) or (detector.true_logits and not self.has_logits)
        ]

    def preprocessed(self, preprocessing: Preprocessing) -> "Classifier":
        """The same model with another preprocessing.

        Raises:
          ClassifierError: the preprocessing is not defined for the model's channels.
        """
        if self.input_shape[2] not in preprocessing.channels():
            expected, actual = " or ".join(map(str, preprocessing.channels())), self.input_shape[2]
            raise ClassifierError(
                f"preprocessing {preprocessing.name} is for {expected} channels, the model's input has {actual}"
            )
        return replace(self, preprocessing=preprocessing)


def load_classifier(
    path: str,
    preprocessing: Preprocessing = Preprocessing(),
    image_size: tuple[int, int] | None = None,
    output_name: str | None = None,
    factory: str | None = None,
) -> Classifier:
    """Loads a model and finds its logits.

        >>> classifier = odin_beam.load_classifier("classifier.keras")
        >>> classifier.logits(np.zeros((2, *classifier.input_shape), np.float32)).shape
        TensorShape([2, 10])

    Args:
      path: `.keras`, `.h5` or the folder of a SavedModel, on any file system.
      preprocessing: what the model expects of its input.
      image_size: (height, width), for models with a variable-size input.
      output_name: which output to use, if the model has several.
      factory: `package.module:function` that builds the Keras model from a local copy of the file.

    Raises:
      ClassifierError: unreadable, not an image classifier, or not matching the other arguments.
    """
    device.enable_memory_growth()
    device.use_one_intra_op_thread()
    # Otherwise GPUs round the factors of float32 products to 10 bits (TF32): too little is left of a step of epsilon.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    model, policy = load_model(path, factory)
    try:
        classifier = as_classifier(model, preprocessing, image_size, output_name)
    except (MemoryError, tf.errors.ResourceExhaustedError) as e:
        raise ClassifierError(f"the model at {path} needs more memory for one image than is available") from e
    return replace(classifier, saved_policy=policy)


def as_classifier(
    model: keras.Model | SavedModel,
    preprocessing: Preprocessing = Preprocessing(),
    image_size: tuple[int, int] | None = None,
    output_name: str | None = None,
) -> Classifier:
    """A `Classifier` from a model in memory; arguments and errors as in `load_classifier`."""
    head = saved_model_head(model, output_name) if isinstance(model, SavedModel) else keras_head(model, output_name)
    input_shape = _input_shape(head.input, image_size)
    plain = Classifier(head.model, head.outputs, Preprocessing(), input_shape, max(2, head.units), head.name)
    plain = plain.preprocessed(preprocessing)
    probe = tf.constant(np.random.default_rng(0).random((4, *input_shape), np.float32))
    outputs = plain.logits(probe).numpy()
    _check_independence(outputs[:1], plain.logits(probe[:1]).numpy())
    name, to_logits = reading(outputs, head)
    last_layer = None if name == "probabilities" or head.units == 1 else head.last_layer
    if last_layer is not None and not last_layer.explains(plain.preprocessing.apply(probe[:2])):
        last_layer = None
    return replace(plain, model_logits=lambda inputs: to_logits(head.outputs(inputs)), head=name, last_layer=last_layer)


def _input_shape(
    head_input: tuple[tuple[int | None, ...], str], image_size: tuple[int, int] | None
) -> tuple[int, int, int]:
    shape, dtype = head_input
    if len(shape) != 4 or shape[3] not in (1, 3):
        raise ClassifierError(f"the model's input is {shape}; images need one of shape (None, H, W, 1 or 3)")
    if dtype not in ("float32", "float64"):
        raise ClassifierError(f"the model's input is {dtype}; a step of epsilon needs one of float32")
    if shape[0] is not None:
        raise ClassifierError(f"the model's input is {shape}: its batch size is fixed; save it with a variable one")
    fixed = tuple(shape[1:3])
    if None in fixed and image_size is None:
        raise ClassifierError(f"the model's input is {shape}: give its height and width as `image_size`")
    size = tuple(f or g for f, g in zip(fixed, image_size or fixed, strict=True))
    if image_size is not None and size != image_size:
        raise ClassifierError(f"`image_size` {image_size[0]},{image_size[1]} contradicts the model's input {shape}")
    return (*size, shape[3])


def _check_independence(among_others: np.ndarray, alone: np.ndarray) -> None:
    """Refuses a model that mixes the images of a batch, or that is not deterministic."""
    # Far above rounding errors.
    tolerance = 1e-2 * np.ptp(among_others)
    if np.isfinite(among_others).all() and not np.allclose(among_others, alone, rtol=1e-2, atol=tolerance):
        raise ClassifierError(
            "the model's outputs for an image change with the other images of its batch, or from call to call"
        )
