"""Feeds descriptions of models to the check that stands before Keras: all of keras.applications, then mutations.

    python -m tests.by_hand.model_configs --mutations 100000 --built 2000

Every architecture of keras.applications has to be accepted. A mutation is a description in which some values are
replaced by others, among them everything that Keras exports; it has to be accepted or refused. The first of those
accepted are built, each in less than 5 s, all in less than 2 GB, and no file may be left behind.
"""

import argparse
import copy
import json
import os
import random
import resource
import tempfile
import time
from typing import Any

import keras
from keras import applications, layers
from keras.src import api_export

from odin_beam.transforms.model.config_check import RefusedConfig, check_config, read_config, without_training

SLOW_SECONDS = 5
_NUMBERS = [0, 1, -1, 3, 2**20, 2**24, 2**31, 10**18, 0.5, -1e30, float("inf"), float("nan"), True, False, None]
_TEXTS = [
    "",
    "same",
    "valid",
    "channels_first",
    "float64",
    "int8",
    "relu",
    "lambda",
    "/etc/passwd",
    "a" * 5000,
    "\x00",
    "...",
]


def check_applications() -> None:
    """Prints one line per architecture.

    Raises:
      RefusedConfig: one is not accepted.
    """
    for name, make in vars(applications).items():
        if name[0].isupper() and callable(make):
            keras.backend.clear_session()
            with keras.StatelessScope(initialize_variables=False):
                text = make(weights=None).to_json()
            began = time.monotonic()
            check_config(without_training(read_config(text)))
            print(f"{name:20}{len(text):>10,} bytes  {1000 * (time.monotonic() - began):>6.0f} ms", flush=True)
    keras.backend.clear_session()


def small_models() -> list[str]:
    """Descriptions with one of each: layers, operations, wrappers, models inside models."""
    inputs = keras.Input((8, 8, 3))
    x = layers.RandomFlip()(inputs[..., ::-1] / 255 - 0.5)
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", activation="relu")(x))
    x = layers.Concatenate()([x, keras.ops.image.resize(x, (8, 8))])
    convolutional = keras.Model(inputs, layers.Dense(3, "softmax")(layers.GlobalAveragePooling2D()(x)))
    inputs = keras.Input((8, 8, 3))
    x = layers.Dense(3)(layers.Dropout(0.1)(convolutional(inputs, training=False)))
    nested = keras.Model(inputs, x)
    inputs = keras.Input((4, 8, 8, 3))
    wrapped = keras.Model(inputs, layers.Bidirectional(layers.LSTM(2))(layers.TimeDistributed(convolutional)(inputs)))
    inputs = keras.Input((8, 8, 3))
    x = layers.Reshape((64, 3))(layers.UpSampling2D(2)(layers.MaxPooling2D()(inputs)))
    x = layers.LayerNormalization()(keras.ops.pad(x, [[0, 0], [1, 1], [0, 0]]) * 2.0)
    attentive = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(layers.MultiHeadAttention(2, 2)(x, x))))
    return [model.to_json() for model in (convolutional, nested, wrapped, attentive)]


def places(config: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value."""
    found, stack = [], [config]
    while stack:
        value = stack.pop()
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        for key in keys:
            found.append((value, key))
            stack.append(value[key])
    return found


def exported_part(chance: random.Random) -> dict[str, Any]:
    """Some exported name of Keras, as a class or as a function."""
    module, _, name = chance.choice(sorted(api_export.REGISTERED_NAMES_TO_OBJS)).rpartition(".")
    if chance.random() < 0.5:
        return {"module": module, "class_name": "function", "config": name, "registered_name": name}
    return {"module": module, "class_name": name, "config": {}, "registered_name": None}


def mutate(config: dict[str, Any], chance: random.Random) -> None:
    """Replaces one value, removes it, or adds one."""
    everything = places(config)
    container, key = chance.choice(everything)
    kind = chance.randrange(6)
    if kind == 0:
        container[key] = chance.choice(_NUMBERS)
    elif kind == 1:
        container[key] = chance.choice(_TEXTS)
    elif kind == 2:
        container[key] = exported_part(chance)
    elif kind == 3:
        other, other_key = chance.choice(everything)
        container[key] = copy.deepcopy(other[other_key])
    elif kind == 4:
        del container[key]
    elif isinstance(container, dict):
        container[chance.choice(["name", "config", "class_name", "module", "activation", "dtype", "inbound_nodes"])] = (
            copy.deepcopy(container[key])
        )
    else:
        container.extend(copy.deepcopy(container[: chance.randrange(1, 20)]))


def fuzz(mutations: int, built: int, seed: int) -> None:
    """Prints counts, the slowest check and build, and by how much the process grew.

    Raises:
      Exception: a check failed otherwise than by refusing, a build was slow, or left a file.
    """
    chance, originals = random.Random(seed), [json.loads(text) for text in small_models()]
    before, accepted, tried, slowest_check, slowest_build = peak(), 0, 0, 0.0, 0.0
    for number in range(mutations):
        config = copy.deepcopy(chance.choice(originals))
        for _ in range(chance.choice([1, 1, 1, 2, 5])):
            mutate(config, chance)
        text, began = json.dumps(config), time.process_time()
        try:
            needed = without_training(read_config(text))
            check_config(needed)
        except RefusedConfig:
            needed = None
        slowest_check = max(slowest_check, time.process_time() - began)
        if needed is None:
            continue
        accepted += 1
        if accepted % 10_000 == 0:
            print(f"{number + 1:,} of {mutations:,}", flush=True)
        if tried < built:
            tried += 1
            began = time.monotonic()
            build(needed)
            seconds = time.monotonic() - began
            slowest_build = max(slowest_build, seconds)
            if seconds > SLOW_SECONDS:
                raise AssertionError(f"mutation {number} of seed {seed} took {seconds:.1f} s to build")
            if tried % 500 == 0:
                keras.backend.clear_session()
    print(f"{mutations:,} mutations: {accepted:,} accepted, the slowest check {slowest_check:.3f} s of CPU time")
    print(f"{tried:,} built or refused by Keras, the slowest in {slowest_build:.2f} s; grown by {peak() - before:,} MB")


def build(config: dict[str, Any]) -> None:
    """Builds a model, or not: Keras refuses most of what makes no sense, by errors of any kind."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            keras.saving.deserialize_keras_object(config, safe_mode=True)
    except Exception as e:
        if isinstance(e, MemoryError):
            raise


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--built", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--applications", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        if arguments.applications:
            check_applications()
        fuzz(arguments.mutations, arguments.built, arguments.seed)
        assert not os.listdir(folder), os.listdir(folder)


if __name__ == "__main__":
    main()
