"""A list of layers as a model of Keras 2, which cannot read the files of Keras 3; see `layers`."""

from collections.abc import Mapping, Sequence

import numpy as np
from tensorflow import keras

from benchmarks.layers import Layer


def keras2_network(layers: Sequence[Layer], weights: Mapping[str, Sequence[np.ndarray]]) -> keras.Model:
    """float32 [N, H, W, 3] in [0, 1] -> logits [N, K]; the same function as the model of Keras 3."""
    values = {}
    for layer in layers:
        name, inputs = layer["name"], [values[one] for one in layer["inputs"]]
        if layer["kind"] == "input":
            values[name] = keras.Input(layer["shape"], name=name)
            continue
        made = _layer(layer, weights.get(name, ()))
        values[name] = made(inputs if len(inputs) > 1 else inputs[0])
        if layer["kind"] != "standardize":
            made.set_weights(weights.get(name, []))
    return keras.Model(values[layers[0]["name"]], values[layers[-1]["name"]])


def _layer(layer: Layer, weights: Sequence[np.ndarray]) -> keras.layers.Layer:
    name = layer["name"]
    match layer["kind"]:
        case "standardize":
            return keras.layers.Normalization(mean=weights[0], variance=weights[1] ** 2, name=name)
        case "conv":
            padding = "same" if layer["same"] else "valid"
            return keras.layers.Conv2D(
                layer["shape"][-1], layer["kernel"], layer["stride"], padding, use_bias=layer["bias"], name=name
            )
        case "norm":
            return keras.layers.BatchNormalization(epsilon=layer["epsilon"], name=name)
        case "relu":
            return keras.layers.ReLU(name=name)
        case "add":
            return keras.layers.Add(name=name)
        case "concat":
            return keras.layers.Concatenate(name=name)
        case "pad":
            top, bottom, left, right = layer["amount"]
            return keras.layers.ZeroPadding2D(((top, bottom), (left, right)), name=name)
        case "mean_pool":
            return keras.layers.AveragePooling2D(layer["kernel"], layer["stride"], name=name)
        case "max_pool":
            return keras.layers.MaxPooling2D(layer["kernel"], layer["stride"], name=name)
        case "global_mean":
            return keras.layers.GlobalAveragePooling2D(name=name)
        case "dense":
            return keras.layers.Dense(layer["shape"][-1], use_bias=layer["bias"], name=name)
    raise ValueError(f"unknown kind of layer: {layer['kind']}")
