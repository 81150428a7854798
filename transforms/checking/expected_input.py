"""What a model's first layers reveal about the input it expects."""

import re

import keras
import numpy as np

from odin_beam.transforms.model.preprocessing import Preprocessing
from odin_beam.transforms.model.saved_model import SavedModel

# Names of networks in keras.applications without a normalising layer of their own, and what they were trained on, from
# `preprocess_input` of each module.
_APPLICATIONS = {
    r"(resnet(50|101|152)|vgg1[69])": "caffe",
    r"(resnet(50|101|152)v2|inception_v3|inception_resnet_v2|xception|nasnet_\w+|mobilenet(v2)?_[\d.]+_\d+)": "tf",
    r"densenet(121|169|201)": "torch",
}
_PASSING = (
    keras.layers.InputLayer,
    keras.layers.Identity,
    keras.layers.Dropout,
    keras.layers.RandomFlip,
    keras.layers.RandomRotation,
    keras.layers.RandomZoom,
    keras.layers.RandomTranslation,
    keras.layers.RandomContrast,
    keras.layers.RandomBrightness,
    keras.layers.RandomCrop,
)


def own_preprocessing(model: keras.Model | SavedModel) -> tuple[str | None, Preprocessing | None]:
    """The input that the model's first layers expect.

    Args:
      model: a Keras model, including its nested models; a SavedModel cannot be inspected.

    Returns:
      (what shows it, in words; the preprocessing that it expects), or (None, None). A normalising layer before the
      first convolution or dense layer shows it: `Rescaling` by 1/127.5 or 1/255 expects bytes, and so does
      `Normalization` with a mean above 2; with a smaller mean it expects [0, 1]. Else the name of a network of
      keras.applications, if that is the model or its first part.
    """
    if isinstance(model, SavedModel):
        return None, None
    for layer in _flat_layers(model):
        if isinstance(layer, keras.layers.Rescaling):
            scale, offset = float(np.max(layer.scale)), float(np.max(layer.offset))
            return f"Rescaling({scale:.6g}, {offset:.6g})", Preprocessing("byte" if scale < 0.1 else "unit")
        if isinstance(layer, keras.layers.Normalization):
            mean = np.ravel(keras.ops.convert_to_numpy(layer.mean)) if layer.mean is not None else np.zeros(1)
            return f"Normalization(mean {_numbers(mean)})", Preprocessing("byte" if mean.max() > 2 else "unit")
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense | keras.layers.DepthwiseConv2D):
            break
    name = _first_network(model)
    preprocessing = next((kind for names, kind in _APPLICATIONS.items() if re.fullmatch(names, name)), None)
    if preprocessing is None or model.inputs[0].shape[-1] != 3:
        return None, None
    return f"{name} of keras.applications", Preprocessing(preprocessing)


def _first_network(model: keras.Model) -> str:
    """The name of the model, or of the model inside it that takes its input; augmentation may come before."""
    for operation in getattr(model, "operations", model.layers):
        if isinstance(operation, keras.Model):
            is_augmentation = all(isinstance(layer, _PASSING) for layer in operation.layers)
            if not is_augmentation:
                return _first_network(operation)
        elif not isinstance(operation, _PASSING):
            break
    return model.name


def _flat_layers(model: keras.Model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flat_layers(layer)
        else:
            yield layer


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in values[:4])
