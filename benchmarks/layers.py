"""A network as a list of layers that TensorFlow of any age and PyTorch can build, and the operations it takes.

Needs NumPy alone, since the peers' environments have little else in common. A layer is a dict that JSON can hold:

* `kind`: `input`, `standardize`, `conv`, `norm`, `relu`, `add`, `concat`, `pad`, `mean_pool`, `max_pool`,
  `global_mean`, `dense`;
* `name`, `inputs` (names of layers before it), `shape` (of its output, (H, W, C) or (C,));
* of its kind: `kernel`, `stride`, `same` and `bias` of a `conv`, `bias` of a `dense`, `epsilon` of a `norm`, `amount`
  (top, bottom, left, right) of a `pad`, `kernel` and `stride` of a pool.

Weights go beside it as arrays in Keras' order and layout, `NAME/0`, `NAME/1` ...
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Layer = dict


def operations(layers: Sequence[Layer]) -> int:
    """What one forward of one image takes: a multiplication and an addition per weight and place, biases left out.

    Convolutions and dense layers alone, since all else is done while their data passes, at best.
    """
    shapes = {layer["name"]: layer["shape"] for layer in layers}
    total = 0
    for layer in layers:
        if layer["kind"] in ("conv", "dense"):
            channels = shapes[layer["inputs"][0]][-1]
            total += 2 * math.prod(layer["shape"]) * math.prod(layer.get("kernel", ())) * channels
    return total


def consumers(layers: Sequence[Layer]) -> dict[str, list[str]]:
    """For each layer the names of those that it is an input of, in order."""
    found = {layer["name"]: [] for layer in layers}
    for layer in layers:
        for name in layer["inputs"]:
            found[name].append(layer["name"])
    return found


def save_network(folder: Path, layers: Sequence[Layer], weights: Mapping[str, Sequence[np.ndarray]]) -> None:
    """`layers.json` and `weights.npz`."""
    (folder / "layers.json").write_text(json.dumps(list(layers)))
    np.savez(
        folder / "weights.npz", **{f"{name}/{i}": a for name, arrays in weights.items() for i, a in enumerate(arrays)}
    )


def load_network(folder: Path) -> tuple[list[Layer], dict[str, list[np.ndarray]]]:
    """What `save_network` wrote."""
    layers = json.loads((folder / "layers.json").read_text())
    weights = {}
    with np.load(folder / "weights.npz") as arrays:
        for key in arrays.files:
            weights.setdefault(key.rpartition("/")[0], []).append(arrays[key])
    return layers, weights
