"""Holds the sizes of a model from a file to limits, before an image is allocated for it."""

import math
from collections.abc import Iterator

import keras

from odin_beam.transforms import limits
from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.model.files import IF_TRUSTED
from odin_beam.transforms.model.saved_model import SavedModel


def check_sizes(model: keras.Model | SavedModel, path: str) -> None:
    """Checks the declared sizes of inputs, outputs and what is computed between; those left open count as 1.

    Raises:
      ClassifierError: one is 0 or above its limit.
    """
    if isinstance(model, SavedModel):
        named = [
            (f"input {model.input[0]}", model.input[1].shape),
            *((f"output {n}", spec.shape) for n, spec in model.outputs.items()),
        ]
        shapes = [(name, tuple(shape)) for name, shape in named if shape.rank is not None]
    else:
        shapes = [(f"input {tensor.name}", tensor.shape) for tensor in getattr(model, "inputs", None) or []]
        shapes += [(f"output {tensor.name}", tensor.shape) for tensor in getattr(model, "outputs", None) or []]
        shapes += [(f"layer {name}", shape) for name, shape in _layers(model)]
    for name, shape in shapes:
        size = math.prod(1 if length is None else length for length in shape)
        if size < 1:
            raise ClassifierError(f"the {name} of model {path} has the shape {shape}, which holds nothing")
        limit = _limit(name, len(shape))
        if size > limit:
            raise ClassifierError(
                f"the {name} of model {path} has the shape {shape}, {size:,} numbers; the limit is {limit:,}; "
                f"{IF_TRUSTED}"
            )


def _limit(name: str, rank: int) -> int:
    if name.startswith("input "):
        return limits.MAX_INPUT_NUMBERS
    return limits.MAX_CLASSES if name.startswith("output ") and rank == 2 else limits.MAX_LAYER_NUMBERS


def _layers(model: keras.Model) -> Iterator[tuple[str, tuple[int | None, ...]]]:
    """Name and output shape of every layer and operation, in models inside the model too."""
    models = [model]
    while models:
        for operation in _operations(models.pop()):
            if isinstance(operation, keras.Model):
                models.append(operation)
            for node in operation._inbound_nodes:
                for tensor in node.output_tensors:
                    yield operation.name, tuple(tensor.shape)


def _operations(model: keras.Model) -> list[keras.Operation]:
    return model.operations if hasattr(model, "operations") else model.layers
