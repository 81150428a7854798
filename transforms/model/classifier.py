"""A model becomes a function from pixels in [0, 1] to logits, on the device, whatever kind of head it has."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import keras
import numpy as np
import tensorflow as tf

from odin_beam.transforms.detectors import CLEAN_DETECTORS, Activations
from odin_beam.transforms.forward.batch_parts import give_each_operation_one_core
from odin_beam.transforms.model.model_file import ClassifierError, load_model, use_gpus_sparingly
from odin_beam.transforms.model.saved_model import SavedModel

CHANNEL_ORDERS = ("rgb", "bgr")
NAMED_PREPROCESSING = ("unit", "byte", "tf", "torch", "caffe")
_TORCH_MEAN, _TORCH_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)
_ACTIVATIONS = ("softmax", "log_softmax", "sigmoid")
_PASSING = (
    keras.layers.Identity,
    keras.layers.Dropout,
    keras.layers.GaussianNoise,
    keras.layers.GaussianDropout,
    keras.layers.ActivityRegularization,
    keras.layers.Flatten,
    keras.layers.Reshape,
)
_ONE_UNIT = (
    "the model's output is a single number; it must be one vector of 2 or more classes, (None, K), or one sigmoid unit "
    "(if it is the logit of two classes, add a sigmoid)"
)


@dataclass(frozen=True)
class Preprocessing:
    """What the model was trained to see, as a function of pixels in [0, 1].

    Attributes:
      name: `unit` [0, 1] as they are; `byte` [0, 255]; `tf` [-1, 1]; `torch` ImageNet mean and std; `caffe` BGR bytes
        minus the ImageNet mean; `mean_std` the two below. As `mode` in `keras.applications.imagenet_utils`.
      mean: per channel, in [0, 1] units; only with `mean_std`.
      std: per channel, in [0, 1] units, > 0; only with `mean_std`.
      channel_order: `rgb`, or `bgr` for a model that was trained on reversed channels, as OpenCV reads them; reversed
        before all else.
    """

    name: str = "unit"
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channel_order: str = "rgb"

    def __post_init__(self):
        if self.channel_order not in CHANNEL_ORDERS:
            raise ValueError(f"channel_order is one of {', '.join(CHANNEL_ORDERS)}, not {self.channel_order!r}")
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
        return (3,) if self.name in ("torch", "caffe") or self.channel_order == "bgr" else (1, 3)

    def reversed(self) -> "Preprocessing":
        """The same with the channels the other way round."""
        return replace(self, channel_order="rgb" if self.channel_order == "bgr" else "bgr")

    def apply(self, pixels: tf.Tensor) -> tf.Tensor:
        """float32 [N, H, W, C] in [0, 1] -> what the model expects, same shape and dtype."""
        if self.channel_order == "bgr":
            pixels = pixels[..., ::-1]
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
class LastLayer:
    """The dense layer that gives the logits, and what goes into it.

    Attributes:
      model: preprocessed float32 [N, H, W, C] -> logits [N, K], features [N, F] and, if `has_maps`, the maps
        [N, h, w, F] of which the features are the average.
      kernel: float32 [F, K].
      has_maps: whether global average pooling comes right before the layer.
    """

    model: keras.Model
    kernel: tf.Variable
    has_maps: bool

    def activations(self, inputs: tf.Tensor) -> Activations:
        """One forward pass in inference mode."""
        logits, features, *maps = (tf.cast(output, tf.float32) for output in self.model(inputs, training=False))
        return Activations(logits, features, maps[0] if maps else None, tf.convert_to_tensor(self.kernel))

    @property
    def map_shape(self) -> tuple[int | None, ...] | None:
        """(h, w, F) of the maps."""
        return tuple(self.model.outputs[2].shape[1:]) if self.has_maps else None


@dataclass(frozen=True, eq=False)
class Classifier:
    """A loaded model together with the preprocessing it is used with.

    Attributes:
      model: as loaded, up to the chosen output.
      model_logits: preprocessed float32 [N, H, W, C] -> float32 logits [N, K], inference mode.
      preprocessing: from pixels in [0, 1] to what the model expects.
      input_shape: (height, width, channels).
      classes: K >= 2.
      head: where the logits were found: `linear`, `softmax in LAYER`, `separate softmax LAYER`, the same with
        `sigmoid` (one unit z, whose two-class logits are [0, z]), or `probabilities` (no logits to be had: `log p`
        stands in, equal to them up to a constant per image).
      saved_policy: the reduced-precision policy that the model was saved with; it computes in float32 all the same.
      last_layer: what the features detectors need; None where the head is no dense layer that can be looked into.
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
        """float32 pixels [N, H, W, C] in [0, 1] -> all that one forward pass gives."""
        if self.last_layer is None:
            return Activations(self.logits(pixels))
        return self.last_layer.activations(self.preprocessing.apply(pixels))

    def unavailable(self, names: Iterable[str]) -> list[str]:
        """Those of the detectors for which this model gives no scores."""
        there = {"logits"}
        if self.last_layer is not None:
            there |= {"features", "kernel"} | ({"maps"} if self.last_layer.has_maps else set())
        wanted = {name: CLEAN_DETECTORS[name] for name in names if name in CLEAN_DETECTORS}
        return [
            name
            for name, detector in wanted.items()
            if not there.issuperset(detector.needs) or (detector.true_logits and not self.has_logits)
        ]

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


def load_classifier(
    path: str,
    preprocessing: Preprocessing = Preprocessing(),
    image_size: tuple[int, int] | None = None,
    output_name: str | None = None,
    factory: str | None = None,
) -> Classifier:
    """Loads a model and finds its logits.

    Args:
      path: `.keras`, `.h5` or the folder of a SavedModel, on any file system.
      preprocessing: what the model expects of its input.
      image_size: (height, width), for a model whose input leaves them open.
      output_name: which output, of a model that has several.
      factory: `package.module:function` that makes the Keras model of a local copy of the file.

    Raises:
      ClassifierError: unreadable, not an image classifier, or not matching the other arguments.
    """
    use_gpus_sparingly()
    give_each_operation_one_core()
    # Or GPUs round the factors of float32 products to 10 bits (TF32): of a step of epsilon too little is left.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    model, policy = load_model(path, factory)
    try:
        classifier = as_classifier(model, preprocessing, image_size, output_name)
    except (MemoryError, tf.errors.ResourceExhaustedError) as e:
        raise ClassifierError(f"the model at {path} needs more memory for one image than there is") from e
    return replace(classifier, saved_policy=policy)


def as_classifier(
    model: keras.Model | SavedModel,
    preprocessing: Preprocessing = Preprocessing(),
    image_size: tuple[int, int] | None = None,
    output_name: str | None = None,
) -> Classifier:
    """A `Classifier` from a model in memory; arguments and errors as in `load_classifier`."""
    head = _saved_model_head(model, output_name) if isinstance(model, SavedModel) else _keras_head(model, output_name)
    input_shape = _input_shape(head.input, image_size)
    plain = Classifier(head.model, head.outputs, Preprocessing(), input_shape, max(2, head.units), head.name)
    plain = plain.preprocessed(preprocessing)
    probe = tf.constant(np.random.default_rng(0).uniform(size=(4, *input_shape)), tf.float32)
    outputs = plain.logits(probe).numpy()
    _check_independence(outputs[:1], plain.logits(probe[:1]).numpy())
    name, to_logits = _reading(outputs, head)
    last_layer = None if name == "probabilities" or head.units == 1 else head.last_layer
    return replace(plain, model_logits=lambda inputs: to_logits(head.outputs(inputs)), head=name, last_layer=last_layer)


@dataclass(frozen=True, eq=False)
class _Head:
    """The end of a model.

    Attributes:
      model: up to this end.
      input: shape and dtype of the model's one input.
      outputs: preprocessed float32 [N, H, W, C] -> float32 [N, units], logits as far as they can be had.
      units: of the output.
      name: where they are; `unknown` where the model does not tell what its outputs are.
      last_layer: see `Classifier`.
    """

    model: keras.Model | SavedModel
    input: tuple[tuple[int | None, ...], str]
    outputs: Callable[[tf.Tensor], tf.Tensor]
    units: int
    name: str
    last_layer: LastLayer | None = None


def _keras_head(model: keras.Model, output_name: str | None) -> _Head:
    inputs = getattr(model, "inputs", None) or []
    if not inputs:
        raise ClassifierError("the model does not say what its input is: build it from keras.Input or as Sequential")
    if len(inputs) != 1:
        raise ClassifierError(
            f"the model's input is {len(inputs)} inputs; images need one of shape (None, H, W, 1 or 3)"
        )
    outputs = _named_outputs(model)
    output = outputs[_choose_output(list(outputs), output_name)]
    units = _units(tuple(output.shape))
    whole = keras.Model(model.inputs, output)
    logits_model, name = find_logits(whole)
    if units == 1 and not _is_sigmoid(name):
        raise ClassifierError(_ONE_UNIT)

    def outputs_of(batch: tf.Tensor) -> tf.Tensor:
        return tf.cast(logits_model(batch, training=False), tf.float32)

    return _Head(
        whole, (tuple(inputs[0].shape), inputs[0].dtype), outputs_of, units, name, find_last_layer(logits_model)
    )


def _named_outputs(model: keras.Model) -> dict[str, keras.KerasTensor]:
    if isinstance(model, keras.Sequential):
        return {"output": model.outputs[0]}
    if isinstance(model.output, dict):
        # In a model that was saved and loaded, an output may be a list of one.
        return {name: keras.tree.flatten(output)[0] for name, output in model.output.items()}
    names = list(model.output_names)
    if twice := [name for name in names if names.count(name) > 1]:
        raise ClassifierError(f"the model has two outputs called {twice[0]!r}: name them apart")
    return dict(zip(names, model.outputs, strict=True))


def _is_sigmoid(head: str) -> bool:
    return head.removeprefix("separate ").startswith("sigmoid ")


def _saved_model_head(model: SavedModel, output_name: str | None) -> _Head:
    output = _choose_output(list(model.outputs), output_name)
    spec = model.input[1]
    shape = tuple(spec.shape) if spec.shape.rank is not None else ()
    there = model.outputs[output].shape
    units = _units(tuple(there) if there.rank is not None else ())

    def outputs_of(batch: tf.Tensor) -> tf.Tensor:
        return tf.cast(model.call(batch, output), tf.float32)

    return _Head(model, (shape, spec.dtype.name), outputs_of, units, "unknown")


def _choose_output(names: list[str], wanted: str | None) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names:
        return wanted
    there = f"outputs there: {', '.join(names)}"
    if wanted is None:
        raise ClassifierError(f"the model has {len(names)} outputs: choose one with --output_name; {there}")
    raise ClassifierError(f"the model has no output {wanted!r}; {there}")


def _units(shape: tuple[int | None, ...]) -> int:
    if len(shape) != 2 or shape[1] is None or shape[1] < 1:
        raise ClassifierError(f"the model's output is {shape}; it must be one vector of 2 or more classes, (None, K)")
    return shape[1]


def _reading(outputs: np.ndarray, head: _Head) -> tuple[str, Callable[[tf.Tensor], tf.Tensor]]:
    """What the outputs for some images show them to be, and what makes logits of them.

    Raises:
      ClassifierError: they are no scores of classes that exclude each other.
    """
    name = "linear" if head.name == "unknown" else head.name
    between = bool(np.all(outputs >= 0) and np.all(outputs <= 1))
    if head.units == 1:
        if _is_sigmoid(head.name):
            return name, lambda z: tf.concat([tf.zeros_like(z), z], axis=1)
        if not between:
            raise ClassifierError(_ONE_UNIT)
        return "probabilities", lambda p: _log_probabilities(tf.concat([1 - p, p], axis=1))
    if _are_probabilities(outputs):
        return "probabilities", _log_probabilities
    if _are_probabilities(np.exp(np.minimum(outputs, 1))):
        return "probabilities", tf.identity
    # Behind a plain dense layer they are logits, wherever they may lie.
    if between and (head.name == "unknown" or (head.name == "linear" and head.last_layer is None)):
        raise ClassifierError(
            "the model's outputs lie between 0 and 1 and do not sum to 1, as those of one sigmoid per class: "
            "scores need classes that exclude each other"
        )
    return name, tf.identity


def _input_shape(there: tuple[tuple[int | None, ...], str], image_size: tuple[int, int] | None) -> tuple[int, int, int]:
    shape, dtype = there
    if len(shape) != 4 or shape[3] not in (1, 3):
        raise ClassifierError(f"the model's input is {shape}; images need one of shape (None, H, W, 1 or 3)")
    if dtype not in ("float32", "float64"):
        raise ClassifierError(f"the model's input is {dtype}; a step of epsilon needs one of float32")
    if shape[0] is not None:
        raise ClassifierError(f"the model's input is {shape}: its batch size is fixed; save it with an open one")
    fixed = tuple(shape[1:3])
    if None in fixed and image_size is None:
        raise ClassifierError(f"the model's input is {shape}: give its height and width as --image_size H,W")
    size = tuple(f or g for f, g in zip(fixed, image_size or fixed, strict=True))
    if image_size is not None and size != image_size:
        raise ClassifierError(f"--image_size {image_size[0]},{image_size[1]} contradicts the model's input {shape}")
    return (*size, shape[3])


def find_logits(model: keras.Model) -> tuple[keras.Model, str]:
    """The same model ending in its logits, whatever kind of head it has, and a word on where they were.

    Taking a softmax of softmax outputs for ODIN's is the classic mistake. A softmax inside the last Dense layer is
    left out of a copy of that layer; a separate softmax of any name is left out of the model. So are log_softmax, the
    sigmoid of a single unit, and layers behind them that do nothing in inference. A head inside a nested model is
    found too.

    Args:
      model: functional or sequential, with one output [N, K]; it stays as it is.

    Returns:
      (model from inputs to [N, K], or to z [N, 1] of a sigmoid unit; where it was found, see `Classifier.head`).

    Raises:
      ClassifierError: the model ends in one sigmoid per class.
    """
    operation, before, own_output = _origin(_step_over(model.outputs[0]))
    if own_output is not None:
        inner, head = find_logits(keras.Model(operation.inputs, own_output))
        return (model if head == "linear" else keras.Model(model.inputs, inner(before))), head
    activation = next((kind for kind in _ACTIVATIONS if _ends_in(operation, kind)), None)
    if activation == "sigmoid" and model.outputs[0].shape[1] > 1:
        raise ClassifierError(
            f"the model ends in one sigmoid per class ({operation.name}): any number of labels at once; "
            "scores need classes that exclude each other"
        )
    if activation is None:
        return model, "linear"
    kind = "sigmoid" if activation == "sigmoid" else "softmax"
    if not isinstance(operation, keras.layers.Dense):
        return keras.Model(model.inputs, before[0]), f"separate {kind} {operation.name}"
    # A copy, since a layer can serve in several places.
    config = {**operation.get_config(), "name": f"{operation.name}_without_{kind}", "activation": "linear"}
    copy = type(operation).from_config(config)
    logits = copy(before[0])
    copy.set_weights(operation.get_weights())
    return keras.Model(model.inputs, logits), f"{kind} in {operation.name}"


def find_last_layer(logits_model: keras.Model) -> LastLayer | None:
    """The dense layer at the end of a model, or None where the model ends otherwise.

    Args:
      logits_model: as `find_logits` gives it; a layer inside a nested model is found too.
    """
    operation, before, own_output = _origin(_step_over(logits_model.outputs[0]))
    if own_output is not None:
        inner = find_last_layer(keras.Model(operation.inputs, own_output))
        return inner and replace(inner, model=keras.Model(logits_model.inputs, inner.model(before)))
    plain = isinstance(operation, keras.layers.Dense) and operation.activation is keras.activations.linear
    if not plain or len(before[0].shape) != 2:
        return None
    features, maps = _pooled(before[0])
    outputs = [operation(features), features, *([] if maps is None else [maps])]
    return LastLayer(keras.Model(logits_model.inputs, outputs), operation.kernel, maps is not None)


def _pooled(features: keras.KerasTensor) -> tuple[keras.KerasTensor, keras.KerasTensor | None]:
    """The features once more, and what they are the global average of, if they are."""
    source = _step_over(features)
    operation, before, own_output = _origin(source)
    if isinstance(operation, keras.layers.GlobalAveragePooling2D) and operation.data_format == "channels_last":
        return source, before[0]
    if own_output is not None:
        inner, maps = _pooled(own_output)
        if maps is not None:
            return tuple(keras.Model(operation.inputs, [inner, maps])(before))
    return features, None


def _origin(
    tensor: keras.KerasTensor,
) -> tuple[keras.Operation, list[keras.KerasTensor], keras.KerasTensor | None]:
    """The operation that made a tensor, what it was made from, and which output it is inside a nested model's graph."""
    operation, node, output = tensor._keras_history
    # A subclassed model has no graph to look into.
    graph = getattr(operation, "outputs", None) if isinstance(operation, keras.Model) else None
    inside = graph[output] if graph else None
    return operation, operation._inbound_nodes[node].input_tensors, inside


def _step_over(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """The tensor before the last operations, where these hand it on unchanged when not training."""
    while True:
        operation, inputs, _ = _origin(tensor)
        passing = isinstance(operation, _PASSING) or (
            isinstance(operation, keras.layers.Activation) and operation.activation is keras.activations.linear
        )
        if not passing or tuple(inputs[0].shape) != tuple(tensor.shape):
            return tensor
        tensor = inputs[0]


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
