"""What a model's first layers reveal about the input it expects."""

import keras
import numpy as np

from odin_beam.transforms.model.preprocessing import Preprocessing
from odin_beam.transforms.model.saved_model import SavedModel


def own_preprocessing(model: keras.Model | SavedModel) -> tuple[str | None, Preprocessing | None]:
    """The input that the model's own normalising layer expects.

    Args:
      model: a Keras model, including its nested models; a SavedModel cannot be inspected.

    Returns:
      (the layer in words, the preprocessing that it expects), or (None, None) if there is no such layer before the
      first convolution or dense layer. `Rescaling` by 1/127.5 or 1/255 expects bytes. So does `Normalization` with
      a mean above 2; with a smaller mean it expects [0, 1].
    """
    for layer in [] if isinstance(model, SavedModel) else _flat_layers(model):
        if isinstance(layer, keras.layers.Rescaling):
            scale, offset = float(np.max(layer.scale)), float(np.max(layer.offset))
            return f"Rescaling({scale:.6g}, {offset:.6g})", Preprocessing("byte" if scale < 0.1 else "unit")
        if isinstance(layer, keras.layers.Normalization):
            mean = np.ravel(keras.ops.convert_to_numpy(layer.mean)) if layer.mean is not None else np.zeros(1)
            return f"Normalization(mean {_numbers(mean)})", Preprocessing("byte" if mean.max() > 2 else "unit")
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense | keras.layers.DepthwiseConv2D):
            break
    return None, None


def _flat_layers(model: keras.Model):
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flat_layers(layer)
        else:
            yield layer


def _numbers(values: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in values[:4])
