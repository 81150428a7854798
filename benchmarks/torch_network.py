"""A list of layers as a PyTorch module; see `layers`."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.layers import Layer, consumers


class TorchNetwork(nn.Module):
    """float32 [N, 3, H, W] in [0, 1] -> logits [N, K]; the same function as the Keras model.

    Padding that a layer can do itself is left to it, and a ReLU works in place where nothing else reads its input, as
    hand-written networks have it.

    Args:
      layers: as in the module `layers`.
      weights: of Keras, by layer.
    """

    def __init__(self, layers: Sequence[Layer], weights: Mapping[str, Sequence[np.ndarray]]):
        super().__init__()
        readers = consumers(layers)
        padding = {}
        self._parts = nn.ModuleList()
        self._steps = []
        source = {}
        for layer in layers:
            name = layer["name"]
            if layer["kind"] == "pad":
                top, bottom, left, right = layer["amount"]
                if not top == bottom == left == right or len(readers[name]) > 1:
                    raise ValueError(f"padding {name} is not one that PyTorch's layers do")
                padding[name] = top
                source[name] = source.get(layer["inputs"][0], layer["inputs"][0])
                continue
            extra = padding.get(layer["inputs"][0], 0) if layer["inputs"] else 0
            alone = layer["inputs"] and len(readers[layer["inputs"][0]]) == 1
            inputs = [source.get(one, one) for one in layer["inputs"]]
            self._parts.append(_part(layer, extra, alone, inputs, layers, weights.get(name, ())))
            self._steps.append((name, inputs))
        last = {one: name for name, inputs in self._steps for one in inputs}
        self._done = {name: [one for one in dict.fromkeys(inputs) if last[one] == name] for name, inputs in self._steps}

    def forward(self, pixels: Tensor) -> Tensor:
        values = {}
        for (name, inputs), part in zip(self._steps, self._parts, strict=True):
            values[name] = part(*(values[one] for one in inputs)) if inputs else part(pixels)
            for one in self._done[name]:
                del values[one]
        (logits,) = values.values()
        return logits


class _Standardize(nn.Module):
    def __init__(self, mean: np.ndarray, std: np.ndarray):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return (pixels - self.mean) / self.std


class _Add(nn.Module):
    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        return one + other


class _Concat(nn.Module):
    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, 1)


class _GlobalMean(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.mean((2, 3))


def _part(
    layer: Layer,
    padding: int,
    alone: bool,
    inputs: Sequence[str],
    layers: Sequence[Layer],
    weights: Sequence[np.ndarray],
) -> nn.Module:
    kind = layer["kind"]
    if padding and kind not in ("conv", "max_pool"):
        raise ValueError(f"{layer['name']}: a {kind} does no padding in PyTorch")
    channels = next((one["shape"][-1] for one in layers if inputs and one["name"] == inputs[0]), 0)
    match kind:
        case "input":
            return nn.Identity()
        case "standardize":
            return _Standardize(*weights)
        case "conv":
            if layer["same"]:
                if layer["stride"] > 1:
                    raise ValueError(f"{layer['name']}: PyTorch has no `same` padding under a stride")
                padding = layer["kernel"][0] // 2
            part = nn.Conv2d(
                channels, layer["shape"][-1], layer["kernel"], layer["stride"], padding, bias=layer["bias"]
            )
            return _filled(part, weight=weights[0].transpose(3, 2, 0, 1), **_bias(weights))
        case "norm":
            scale, shift, mean, variance = weights
            part = nn.BatchNorm2d(channels, eps=layer["epsilon"])
            return _filled(part, weight=scale, bias=shift, running_mean=mean, running_var=variance)
        case "relu":
            return nn.ReLU(inplace=alone)
        case "add":
            return _Add()
        case "concat":
            return _Concat()
        case "mean_pool":
            return nn.AvgPool2d(layer["kernel"], layer["stride"])
        case "max_pool":
            # Behind a ReLU zeros or minus infinity around the maps make no difference.
            return nn.MaxPool2d(layer["kernel"], layer["stride"], padding)
        case "global_mean":
            return _GlobalMean()
        case "dense":
            part = nn.Linear(channels, layer["shape"][-1], bias=layer["bias"])
            return _filled(part, weight=weights[0].T, **_bias(weights))
    raise ValueError(f"unknown kind of layer: {kind}")


def _bias(weights: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {"bias": weights[1]} if len(weights) > 1 else {}


def _filled(part: nn.Module, **arrays: np.ndarray) -> nn.Module:
    state = {name: torch.tensor(np.ascontiguousarray(array)) for name, array in arrays.items()}
    part.load_state_dict(state, strict=False)
    return part
