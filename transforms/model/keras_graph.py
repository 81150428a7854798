"""Walks back through a Keras model's graph, including nested models."""

import keras

_PASSING = (
    keras.layers.Identity,
    keras.layers.Dropout,
    keras.layers.GaussianNoise,
    keras.layers.GaussianDropout,
    keras.layers.ActivityRegularization,
    keras.layers.Flatten,
    keras.layers.Reshape,
)


def origin(
    tensor: keras.KerasTensor,
) -> tuple[keras.Operation, list[keras.KerasTensor], keras.KerasTensor | None]:
    """The operation that produced a tensor, its inputs, and the matching output inside a nested model's graph."""
    operation, node, output = tensor._keras_history
    # A subclassed model has no graph to inspect.
    graph = getattr(operation, "outputs", None) if isinstance(operation, keras.Model) else None
    inside = graph[output] if graph else None
    return operation, operation._inbound_nodes[node].input_tensors, inside


def step_over(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """The tensor before the last operations, skipping those that pass it on unchanged when not training."""
    while True:
        operation, inputs, _ = origin(tensor)
        passing = isinstance(operation, _PASSING) or (
            isinstance(operation, keras.layers.Activation) and operation.activation is keras.activations.linear
        )
        if not passing or tuple(inputs[0].shape) != tuple(tensor.shape):
            return tensor
        tensor = inputs[0]
