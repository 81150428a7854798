"""Loads models that were made to do harm, each in a process of its own, and prints what that took.

    python -m tests.by_hand.hostile_models

A table of Markdown: what was made, the process's peak memory, how long it took, whether a file was written, and what
was said. A process is ended at 12 GB and after two minutes.
"""

import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

LIMIT_BYTES, LIMIT_SECONDS = 12 << 30, 120
_LOAD = """
import resource, sys
from odin_beam.transforms.model.classifier import load_classifier
try:
    classifier = load_classifier(sys.argv[1])
    print("loaded:", classifier.input_shape, classifier.classes)
except Exception as e:
    print(f"{type(e).__name__}: {e}".splitlines()[0][:200])
except BaseException as e:
    print(type(e).__name__)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, parts: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def saved(folder: Path, shape=(8, 8, 3), classes=4, layers=()) -> Path:
    """A small model, with layers in its middle."""
    import keras

    inputs = x = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    outputs = keras.layers.Dense(classes, name="last")(keras.layers.GlobalAveragePooling2D()(x))
    keras.Model(inputs, outputs).save(folder / "model.keras")
    return folder / "model.keras"


def changed(path: Path, change: Callable[[dict], None]) -> Path:
    """The file with another description."""
    parts = members(path)
    config = json.loads(parts["config.json"])
    change(config)
    return write(path, {**parts, "config.json": json.dumps(config).encode()})


def calls_keras(folder: Path) -> Path:
    """A lambda that is an exported function of Keras, with a path among its arguments, called on a constant."""
    name = "plot_image_gallery"
    function = {"module": "keras.visualization", "class_name": "function", "config": name, "registered_name": name}
    image = {"class_name": "__numpy__", "config": {"value": [[[[1.0]]]], "dtype": "float32"}}
    arguments = {"path": str(folder / "written.png"), "rows": 1, "cols": 1, "value_range": [0, 1]}

    def change(config: dict) -> None:
        trap = {"module": "keras.layers", "class_name": "Lambda", "registered_name": None, "name": "trap"}
        described = {"name": "trap", "function": function, "arguments": arguments}
        calls = [{"args": [image], "kwargs": {}}]
        config["config"]["layers"].append({**trap, "config": described, "inbound_nodes": calls})

    return changed(saved(folder), change)


def gradient_saves(folder: Path) -> Path:
    """A SavedModel whose gradient is registered to be its own function for saving."""
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

    target = str(folder / "written")

    class Module(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32)])
        def serve(self, x):
            @tf.custom_gradient
            def trap(y):
                def gradient(upstream):
                    tf.raw_ops.SaveV2(prefix=target, tensor_names=["y"], shape_and_slices=[""], tensors=[upstream])
                    return upstream

                return tf.identity(y), gradient

            return {"y": trap(tf.reshape(x, [-1, 192])[:, :4])}

    module = Module()
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=True)
    tf.saved_model.save(module, str(folder / "m"), signatures={"serving_default": module.serve}, options=options)
    file = folder / "m/saved_model.pb"
    description = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    library = description.meta_graphs[0].graph_def.library
    renamed = {
        g.gradient_func: f"__inference__traced_save_{99 + i}" for i, g in enumerate(library.registered_gradients)
    }
    for gradient in library.registered_gradients:
        gradient.gradient_func = renamed[gradient.gradient_func]
    for function in library.function:
        function.signature.name = renamed.get(function.signature.name, function.signature.name)
    file.write_bytes(description.SerializeToString())
    return folder / "m"


def many_units(folder: Path) -> Path:
    """25 kB that declare 16 GB of weights."""

    def change(config: dict) -> None:
        config["config"]["layers"][-1]["config"]["units"] = 1_300_000_000

    return changed(saved(folder), change)


def unwritten(folder: Path) -> Path:
    """An HDF5 file of 25 kB with a dataset of 4 GB."""
    import h5py

    path = saved(folder)
    parts = members(path)
    weights = io.BytesIO(parts["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        del file["layers/dense/vars/0"]
        file["layers/dense/vars"].create_dataset("0", (1 << 15, 1 << 15), "f4", chunks=(1 << 10, 1 << 10))

    def change(config: dict) -> None:
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "Dense":
                layer["config"]["units"] = 1 << 15
                layer["build_config"]["input_shape"] = [None, 1 << 15]

    return changed(write(path, {**parts, "model.weights.h5": weights.getvalue()}), change)


def long_description(folder: Path) -> Path:
    """64 kB of zip with a description of 64 MB."""

    def change(config: dict) -> None:
        config["config"]["name"] = "x"
        config["config"]["layers"][1]["config"]["padding"] = [[0] * 32 for _ in range(630_000)]

    return changed(saved(folder), change)


ATTACKS: dict[str, Callable[[Path], Path]] = {
    "a function of Keras called with a path (`.keras`)": calls_keras,
    "a gradient that saves (SavedModel)": gradient_saves,
    "16 GB of weights declared in 25 kB": many_units,
    "4 GB of weights declared, none stored": unwritten,
    "an input of 6000 x 6000": lambda folder: saved(folder, (6000, 6000, 3)),
    "a description of 64 MB in a small zip": long_description,
    "3 million classes": lambda folder: saved(folder, classes=3_000_000),
    "a layer that enlarges 8 x 8 to 40,000 x 40,000": lambda folder: saved(folder, layers=[_enlarged()]),
}


def _enlarged():
    import keras

    return keras.layers.UpSampling2D(5000)


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (4 * LIMIT_BYTES, 4 * LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))


def attempt(path: Path) -> tuple[str, int, float]:
    """(what was said, MB at the peak, seconds)."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LOAD, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            timeout=LIMIT_SECONDS,
            preexec_fn=_limited,
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {LIMIT_SECONDS} s", 0, LIMIT_SECONDS
    lines = done.stdout.strip().splitlines()
    seconds = time.monotonic() - began
    return (lines[0], int(lines[-1]), seconds) if len(lines) > 1 else (f"killed: {done.returncode}", 0, seconds)


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    print("| made | peak, MB | seconds | files written | said |\n|---|---|---|---|---|")
    for made, make in ATTACKS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            path = make(folder)
            before = set(folder.rglob("*"))
            said, peak, seconds = attempt(path)
            written = len(set(folder.rglob("*")) - before)
            said = said.replace(str(path), "FILE")
            print(f"| {made} | {peak:,} | {seconds:.0f} | {written} | {said} |", flush=True)


if __name__ == "__main__":
    main()
