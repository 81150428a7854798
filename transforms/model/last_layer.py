"""The dense layer at the end of a classifier, and its inputs."""

from dataclasses import dataclass, replace

import keras
import tensorflow as tf

from odin_beam.transforms.model.activations import Activations
from odin_beam.transforms.model.keras_graph import origin, step_over

# Largest part of the logits that may be left, far above rounding errors.
_EXPLAINED = 1e-3
_RESHAPING = (keras.layers.Flatten, keras.layers.Reshape)


@dataclass(frozen=True, eq=False)
class LastLayer:
    """The dense layer that computes the logits, and its inputs.

    Attributes:
      model: preprocessed float32 [N, H, W, C] -> logits [N, K], features [N, F] and, if `has_maps`, the maps
        [N, h, w, F] whose average the features are.
      kernel: float32 [F, K].
      bias: float32 [K]; None for a layer without one.
      has_maps: whether global average pooling comes right before the layer.
    """

    model: keras.Model
    kernel: tf.Variable
    bias: tf.Variable | None
    has_maps: bool

    def activations(self, inputs: tf.Tensor) -> Activations:
        """One forward pass in inference mode."""
        logits, features, *maps = (tf.cast(output, tf.float32) for output in self.model(inputs, training=False))
        kernel = tf.convert_to_tensor(self.kernel)
        bias = tf.zeros(kernel.shape[1:], kernel.dtype) if self.bias is None else tf.convert_to_tensor(self.bias)
        return Activations(logits, features, maps[0] if maps else None, kernel, bias)

    def explains(self, inputs: tf.Tensor) -> bool:
        """Whether the logits really are features times kernel, plus one constant per class, for these inputs.

        They are not in a quantised model, whose stored kernel lacks its scale.

        Args:
          inputs: preprocessed float32 [N, H, W, C], N >= 2.
        """
        found = self.activations(inputs)
        if not found.kernel.dtype.is_floating:
            return False
        logits = tf.cast(found.logits, tf.float64)
        bias = logits - tf.cast(found.features, tf.float64) @ tf.cast(found.kernel, tf.float64)
        spread = tf.reduce_max(tf.abs(bias - tf.reduce_mean(bias, axis=0)))
        # What is not finite is the images' problem; comparisons with NaN are false.
        return not bool(spread > _EXPLAINED * (1e-6 + tf.reduce_max(tf.abs(logits))))

    @property
    def map_shape(self) -> tuple[int | None, ...] | None:
        """(h, w, F) of the maps."""
        return tuple(self.model.outputs[2].shape[1:]) if self.has_maps else None


def find_last_layer(logits_model: keras.Model) -> LastLayer | None:
    """The dense layer at the end of a model, or None if the model ends in anything else.

    Args:
      logits_model: returned by `find_logits`; a layer inside a nested model is found too.
    """
    operation, before, nested_output = origin(step_over(logits_model.outputs[0]))
    if nested_output is not None:
        inner = find_last_layer(keras.Model(operation.inputs, nested_output))
        return inner and replace(inner, model=keras.Model(logits_model.inputs, inner.model(before)))
    plain = isinstance(operation, keras.layers.Dense) and operation.activation is keras.activations.linear
    if not plain or len(before[0].shape) != 2:
        return None
    features, maps = _pooled(before[0])
    outputs = [operation(features), features, *([] if maps is None else [maps])]
    return LastLayer(keras.Model(logits_model.inputs, outputs), operation.kernel, operation.bias, maps is not None)


def _pooled(features: keras.KerasTensor) -> tuple[keras.KerasTensor, keras.KerasTensor | None]:
    """The features, [N, F] or [N, 1, 1, F], and the maps whose global average they are; None if they are not."""
    source = step_over(features)
    operation, before, nested_output = origin(source)
    if _averages_globally(operation, before):
        return source, before[0]
    if isinstance(operation, _RESHAPING) and tuple(before[0].shape[1:]) == (1, 1, source.shape[-1]):
        inner, maps = _pooled(before[0])
        if maps is not None:
            return operation(inner), maps
    if nested_output is not None:
        inner, maps = _pooled(nested_output)
        if maps is not None:
            return tuple(keras.Model(operation.inputs, [inner, maps])(before))
    return features, None


def _averages_globally(operation: keras.Operation, before: list[keras.KerasTensor]) -> bool:
    if getattr(operation, "data_format", None) != "channels_last":
        return False
    if isinstance(operation, keras.layers.GlobalAveragePooling2D):
        return True
    is_average = isinstance(operation, keras.layers.AveragePooling2D) and operation.padding == "valid"
    return is_average and tuple(operation.pool_size) == tuple(before[0].shape[1:3])
