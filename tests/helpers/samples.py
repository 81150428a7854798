"""Small inputs that the tests make: images, Examples, shards, classifiers; and where the large real ones are."""

import gzip
import io
import os
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image

from odin_beam.transforms.shards import framing
from odin_beam.transforms.shards.contents.tfrecords import TFRecords
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables.layout import scores_file_name

# `make fuzz` tries so many times the cases, other ones each time, and takes one that lasts seconds for a hang.
FUZZ = int(os.environ.get("ODIN_BEAM_FUZZ", "1"))

ROOT = Path(__file__).resolve().parents[2]
DEMO_DATA = ROOT / "pipeline" / "demo_data"
SHARED_DATA = ROOT.parent / "shared" / "data"


def real(name: str) -> Path:
    """A file of the real data; the test is skipped where it is absent."""
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"the real data {name} is not beside this checkout")
    return path


def random_images(count: int, shape=(8, 8, 3), seed: int = 0) -> np.ndarray:
    """uint8 [count, *shape], uniform."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def encoded(image: np.ndarray, image_format: str = "PNG", **options) -> bytes:
    """An image file of a uint8 [H, W, C] array, C of 1 to 4."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, image_format, **options)
    return buffer.getvalue()


def feature(value) -> tf.train.Feature:
    """bytes, str, int or float as an Example's feature."""
    if isinstance(value, bytes | str):
        return tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[value.encode() if isinstance(value, str) else value])
        )
    if isinstance(value, float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))


def example(**features) -> bytes:
    """A serialized tf.train.Example; features of value None are left out."""
    made = {name: feature(value) for name, value in features.items() if value is not None}
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString(deterministic=True)


def examples(images: np.ndarray, labels: Iterable[int] | None = None) -> list[bytes]:
    """One Example with a PNG per image."""
    labels = [None] * len(images) if labels is None else labels
    return [example(image=encoded(image), label=label) for image, label in zip(images, labels, strict=True)]


def damaged(data: bytes) -> st.SearchStrategy[bytes]:
    """The data after one to three accidents: a byte changed, a slice cut out, bytes put in, or the end lost."""
    position = st.integers(0, len(data))
    accident = st.one_of(
        st.tuples(position, st.just(1), st.binary(min_size=1, max_size=1)),
        st.tuples(position, st.integers(1, 40), st.just(b"")),
        st.tuples(position, st.just(0), st.binary(min_size=1, max_size=40)),
        st.tuples(position, st.just(len(data) + 120), st.just(b"")),
    )

    def apply(accidents: list[tuple[int, int, bytes]]) -> bytes:
        result = data
        for at, removed, inserted in accidents:
            result = result[:at] + inserted + result[at + removed :]
        return result

    return st.lists(accident, min_size=1, max_size=3).map(apply)


def fuzzed(max_examples: int) -> settings:
    """Hypothesis settings of a test of damaged bytes: fixed and quick, unless `make fuzz` asks for more."""
    if FUZZ == 1:
        return settings(max_examples=max_examples, deadline=None, derandomize=True)
    return settings(max_examples=max_examples * FUZZ, deadline=timedelta(seconds=5), database=None)


def write_shard(path, payloads: Iterable[bytes]) -> Path:
    """A TFRecord file, gzip where the name says so."""
    data = b"".join(map(framing.frame, payloads))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def shard(path, source: str = "photos", role: str = "in_distribution") -> Shard:
    """The `Shard` of a file as `score` would list it."""
    stat = Path(path).stat()
    return Shard(source, role, str(path), stat.st_size, stat.st_mtime, scores_file_name(str(path)), TFRecords())


def small_model(input_shape=(8, 8, 3), classes: int = 4, seed: int = 0, scale: float = 8.0) -> keras.Model:
    """A convolution, global average pooling and a linear head, with random weights and spread-out logits."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(input_shape)
    x = keras.layers.Conv2D(6, 3, padding="same", activation="relu")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(
        inputs, keras.layers.Dense(classes, kernel_initializer=keras.initializers.RandomNormal(0, scale))(x)
    )


def save_model(model: keras.Model, path) -> str:
    """Saves a model and gives the path as the command line wants it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return str(path)


def write_calibration(path, model: str = "/m.keras", scores: np.ndarray | None = None) -> None:
    """A calibration.json with the same scores for ODIN and msp."""
    from odin_beam.transforms.calibration import calibration_file
    from odin_beam.transforms.calibration.conformal import CalibrationScores
    from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
    from odin_beam.transforms.scoring.settings import ScoreSettings

    steps = CalibrationScores.of(ScoreHistogram.of(np.linspace(0.1, 0.9, 100) if scores is None else scores)).as_dict()
    content = {"model": model, "settings": ScoreSettings(model, "d").identity(), "class_scores": {}, "sources": {}}
    calibration_file.write_calibration(str(path), {**content, "scores": {"odin": steps, "msp": steps}})
