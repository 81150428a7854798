"""The networks that `train_classifier.py` trains. Each takes float32 pixels in [0, 1] and gives logits.

Those for CIFAR-10 begin with the normalisation by the training images' mean and variance, so that it is part of the
saved model, and end in global average pooling and one dense layer, so that activation maps can be had.
"""

import keras
import numpy as np
from keras import layers

Shape = tuple[int, int, int]


def small_convnet(image_shape: Shape, classes: int, pixels: np.ndarray) -> keras.Model:
    """Three stages of two convolutions, without normalisation of the pixels; not compiled.

    Args:
      image_shape: (height, width, channels).
      classes: K.
      pixels: training images, uint8 [N, *image_shape]; not needed here.

    Returns:
      A model from float32 [n, *image_shape] in [0, 1] to logits [n, K].
    """
    del pixels
    inputs = features = keras.Input(image_shape, name="pixels")
    for stage, width in enumerate((24, 56, 112)):
        if stage:
            features = layers.MaxPooling2D(2)(features)
        for _ in range(2):
            features = layers.Conv2D(width, 3, padding="same", use_bias=False)(features)
            features = layers.BatchNormalization(momentum=0.9)(features)
            features = layers.ReLU()(features)
    return _with_head(inputs, features, classes, "small_convnet")


def densenet_bc(
    image_shape: Shape, classes: int, pixels: np.ndarray, depth: int = 100, growth: int = 12
) -> keras.Model:
    """DenseNet-BC for small images, three blocks, compression 0.5 (Huang et al. 2017, https://arxiv.org/abs/1608.06993).

    Args:
      image_shape: (height, width, channels).
      classes: K.
      pixels: training images, uint8 [N, *image_shape], whose mean and variance the model takes out of its input.
      depth: L, 4 more than a multiple of 6.
      growth: k, channels that each layer adds.

    Returns:
      A model from float32 [n, *image_shape] in [0, 1] to logits [n, K], not compiled.

    Raises:
      ValueError: there is no such depth.
    """
    if (depth - 4) % 6:
        raise ValueError(f"a DenseNet-BC of three blocks has a depth of 6 n + 4, not {depth}")
    inputs = keras.Input(image_shape, name="pixels")
    features = _convolution(_normalized(inputs, pixels), 2 * growth, 3)
    for block in range(3):
        if block:
            features = _convolution(_activated(features), features.shape[-1] // 2, 1)
            features = layers.AveragePooling2D(2)(features)
        for _ in range((depth - 4) // 6):
            new = _convolution(_activated(features), 4 * growth, 1)
            new = _convolution(_activated(new), growth, 3)
            features = layers.Concatenate()([features, new])
    return _with_head(inputs, _activated(features), classes, "densenet_bc")


def wide_resnet(image_shape: Shape, classes: int, pixels: np.ndarray, depth: int = 40, width: int = 2) -> keras.Model:
    """WideResNet for small images (Zagoruyko and Komodakis 2016, https://arxiv.org/abs/1605.07146).

    Args:
      image_shape: (height, width, channels).
      classes: K.
      pixels: training images, uint8 [N, *image_shape], whose mean and variance the model takes out of its input.
      depth: 4 more than a multiple of 6.
      width: factor of the channels 16, 32 and 64.

    Returns:
      A model from float32 [n, *image_shape] in [0, 1] to logits [n, K], not compiled.

    Raises:
      ValueError: there is no such depth.
    """
    if (depth - 4) % 6:
        raise ValueError(f"a WideResNet has a depth of 6 n + 4, not {depth}")
    inputs = keras.Input(image_shape, name="pixels")
    features = _convolution(_normalized(inputs, pixels), 16, 3)
    for stage, channels in enumerate((16 * width, 32 * width, 64 * width)):
        for i in range((depth - 4) // 6):
            stride = 2 if stage and i == 0 else 1
            activated = _activated(features)
            if i == 0:
                # A block that changes the shape is entered behind its first activation on both ways.
                features = _convolution(activated, channels, 1, stride)
            new = _convolution(_activated(_convolution(activated, channels, 3, stride)), channels, 3)
            features = layers.Add()([features, new])
    return _with_head(inputs, _activated(features), classes, "wide_resnet")


def small_transformer(
    image_shape: Shape, classes: int, pixels: np.ndarray, width: int = 96, depth: int = 4, patch: int = 4
) -> keras.Model:
    """A vision transformer for small images; its features, behind a layer normalisation, are negative as often as not.

    Positions come from a depthwise convolution (Chu et al. 2021, https://arxiv.org/abs/2102.10882).

    Args:
      image_shape: (height, width, channels), multiples of `patch`.
      classes: K.
      pixels: training images, uint8 [N, *image_shape], whose mean and variance the model takes out of its input.
      width: channels of a token, a multiple of 4.
      depth: number of blocks.
      patch: side of a token in pixels.

    Returns:
      A model from float32 [n, *image_shape] in [0, 1] to logits [n, K], not compiled.
    """
    rows, columns = (side // patch for side in image_shape[:2])
    inputs = keras.Input(image_shape, name="pixels")
    tokens = layers.Conv2D(width, patch, patch)(_normalized(inputs, pixels))
    tokens = layers.Add()([tokens, layers.DepthwiseConv2D(3, padding="same")(tokens)])
    tokens = layers.Reshape((rows * columns, width))(tokens)
    for _ in range(depth):
        normalized = layers.LayerNormalization()(tokens)
        tokens = layers.Add()([tokens, layers.MultiHeadAttention(4, width // 4)(normalized, normalized)])
        hidden = layers.Dense(2 * width, activation="gelu")(layers.LayerNormalization()(tokens))
        tokens = layers.Add()([tokens, layers.Dense(width)(hidden)])
    features = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(tokens))
    return keras.Model(inputs, layers.Dense(classes, name="logits")(features), name="small_transformer")


def _normalized(inputs: keras.KerasTensor, pixels: np.ndarray) -> keras.KerasTensor:
    axes = tuple(range(pixels.ndim - 1))
    mean, variance = pixels.mean(axes) / 255, pixels.var(axes) / 255**2
    return layers.Normalization(mean=mean.tolist(), variance=np.maximum(variance, 1e-6).tolist())(inputs)


def _activated(features: keras.KerasTensor) -> keras.KerasTensor:
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(features))


def _convolution(features: keras.KerasTensor, channels: int, size: int, stride: int = 1) -> keras.KerasTensor:
    return layers.Conv2D(channels, size, stride, padding="same", use_bias=False, kernel_initializer="he_normal")(
        features
    )


def _with_head(inputs: keras.KerasTensor, features: keras.KerasTensor, classes: int, name: str) -> keras.Model:
    logits = layers.Dense(classes, name="logits")(layers.GlobalAveragePooling2D()(features))
    return keras.Model(inputs, logits, name=name)
