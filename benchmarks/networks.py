"""The classifiers that are timed, as Keras models and as lists of layers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from benchmarks.layers import Layer

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@dataclass(frozen=True)
class Network:
    """A classifier to time.

    Attributes:
      title: as in the table.
      build: makes the Keras model; it ends in logits.
      image_size: of its square input, in pixels.
      batch_size: unless another is asked for.
      images: that one round scores.
    """

    title: str
    build: Callable[[], keras.Model]
    image_size: int
    batch_size: int
    images: int


def densenet() -> keras.Model:
    """DenseNet-BC (L=100, k=12) with its trained weights."""
    return keras.models.load_model(SHARED_DATA / "densenet_bc_100_12_cifar10.keras", compile=False)


def wide_resnet(depth: int = 40, width: int = 2, classes: int = 10) -> keras.Model:
    """WideResNet (Zagoruyko & Komodakis 2016, https://arxiv.org/abs/1605.07146) for 32 x 32 pixels, random weights."""

    def normalized(x: keras.KerasTensor) -> keras.KerasTensor:
        return keras.layers.ReLU()(keras.layers.BatchNormalization(epsilon=1e-5)(x))

    def convolution(x: keras.KerasTensor, filters: int, size: int, stride: int) -> keras.KerasTensor:
        # The padding of the original: even on both sides, which `same` with a stride is not.
        if stride > 1 and size > 1:
            x = keras.layers.ZeroPadding2D(size // 2)(x)
        padding = "valid" if stride > 1 else "same"
        return keras.layers.Conv2D(
            filters, size, stride, padding, use_bias=False, kernel_initializer=keras.initializers.HeNormal(seed=0)
        )(x)

    inputs = keras.Input((32, 32, 3))
    x = convolution(inputs, 16, 3, 1)
    for filters, first_stride in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
        for i in range((depth - 4) // 6):
            stride = first_stride if i == 0 else 1
            activated = normalized(x)
            shortcut = convolution(activated, filters, 1, stride) if i == 0 else x
            x = convolution(normalized(convolution(activated, filters, 3, stride)), filters, 3, 1)
            x = keras.layers.Add()([x, shortcut])
    x = keras.layers.GlobalAveragePooling2D()(normalized(x))
    return keras.Model(inputs, keras.layers.Dense(classes)(x))


def resnet50() -> keras.Model:
    """ResNet-50 of keras.applications, 224 pixels and 1,000 classes, random weights."""
    return keras.applications.ResNet50(weights=None, classifier_activation=None)


NETWORKS = {
    "densenet": Network("DenseNet-BC-100-12", densenet, 32, 64, 128),
    "wide_resnet": Network("WideResNet-40-2", wide_resnet, 32, 64, 256),
    "resnet50": Network("ResNet-50, 224 pixels", resnet50, 224, 16, 16),
}


def build(network: Network, images: np.ndarray) -> keras.Model:
    """The network; where its weights are random, its normalisation fits some images.

    Args:
      network: to build.
      images: float32 [N, H, W, 3] in [0, 1], a dozen or more.
    """
    keras.utils.set_random_seed(0)
    model = network.build()
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if all(not np.any(norm.moving_mean) for norm in norms):
        kept = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.0
        model(images, training=True)
        for norm, momentum in zip(norms, kept, strict=True):
            norm.momentum = momentum
    return model


def cifar_images(count: int, image_size: int) -> np.ndarray:
    """float32 [count, image_size, image_size, 3] in [0, 1]: the first images of CIFAR-10's test set, resized."""
    with np.load(SHARED_DATA / "cifar10_test.npz") as data:
        images = data["x"][:count].astype(np.float32) / 255
    if image_size == images.shape[1]:
        return images
    return np.clip(tf.image.resize(images, (image_size, image_size), "bicubic").numpy(), 0, 1)


def describe(model: keras.Model) -> tuple[list[Layer], dict[str, list[np.ndarray]]]:
    """The layers of a Keras model with one input and one output, see `layers`, and their weights.

    Raises:
      ValueError: it has a layer of another kind.
    """
    layers, weights = [], {}
    for layer in model.layers:
        inputs = keras.tree.flatten(layer._inbound_nodes[0].arguments.keras_tensors)
        layers.append(
            {
                "name": layer.name,
                "inputs": [tensor._keras_history.operation.name for tensor in inputs],
                "shape": [int(size) for size in keras.tree.flatten(layer.output)[0].shape[1:]],
                **_kind(layer),
            }
        )
        weights[layer.name] = _weights(layer)
    return layers, weights


def _kind(layer: keras.Layer) -> Layer:
    match layer:
        case keras.layers.InputLayer():
            return {"kind": "input"}
        case keras.layers.Normalization():
            return {"kind": "standardize"}
        case keras.layers.Conv2D(groups=1, dilation_rate=(1, 1)) if layer.activation is keras.activations.linear:
            return {
                "kind": "conv",
                "kernel": list(layer.kernel_size),
                "stride": layer.strides[0],
                "same": layer.padding == "same",
                "bias": layer.use_bias,
            }
        case keras.layers.BatchNormalization():
            return {"kind": "norm", "epsilon": layer.epsilon}
        case keras.layers.ReLU(max_value=None, negative_slope=0, threshold=0):
            return {"kind": "relu"}
        case keras.layers.Activation() if layer.activation is keras.activations.relu:
            return {"kind": "relu"}
        case keras.layers.Add():
            return {"kind": "add"}
        case keras.layers.Concatenate(axis=-1):
            return {"kind": "concat"}
        case keras.layers.ZeroPadding2D():
            return {"kind": "pad", "amount": [side for pair in layer.padding for side in pair]}
        case keras.layers.AveragePooling2D(padding="valid"):
            return {"kind": "mean_pool", "kernel": list(layer.pool_size), "stride": layer.strides[0]}
        case keras.layers.MaxPooling2D(padding="valid"):
            return {"kind": "max_pool", "kernel": list(layer.pool_size), "stride": layer.strides[0]}
        case keras.layers.GlobalAveragePooling2D(keepdims=False):
            return {"kind": "global_mean"}
        case keras.layers.Dense() if layer.activation is keras.activations.linear:
            return {"kind": "dense", "bias": layer.use_bias}
    raise ValueError(f"layer {layer.name} is of a kind that the peers are not given: {type(layer).__name__}")


def _weights(layer: keras.Layer) -> list[np.ndarray]:
    """In Keras' order; mean and standard deviation of a `standardize`."""
    if isinstance(layer, keras.layers.Normalization):
        return [np.ravel(layer.mean).astype(np.float32), np.sqrt(np.ravel(layer.variance)).astype(np.float32)]
    return layer.get_weights()
