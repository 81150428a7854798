"""A data set that TensorFlow Datasets has prepared: its shards, and the names of its features."""

import os
import re

import numpy as np

from odin_beam.pipeline.errors import UsageError
from odin_beam.transforms.shards.shard import FeatureNames
from odin_beam.transforms.storage import paths

_PATTERN = re.compile(r"(?P<name>\w+(?:/[\w.+-]+)?)(?::(?P<version>\d+\.\d+\.\d+))?/(?P<split>[^/:]+)")
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def find_split(pattern: str, data_dir: str) -> tuple[list[str], FeatureNames]:
    """The shards of one split, and what its features are called.

    Args:
      pattern: `NAME[/CONFIG][:VERSION]/SPLIT`; without VERSION the highest one available.
      data_dir: where TensorFlow Datasets prepares data sets.

    Raises:
      UsageError: it is not prepared there, has no such split, or is not a TFRecord data set of images.
    """
    if not paths.is_local(data_dir):
        raise UsageError(
            f"--tfds_data_dir {data_dir} is not local: give the data set's TFRecord files as a GLOB instead"
        )
    matched = _PATTERN.fullmatch(pattern)
    if matched is None:
        raise UsageError(f"tfds:{pattern} is not of the form tfds:NAME[:VERSION]/SPLIT")
    name, version, split = matched["name"], matched["version"], matched["split"]
    folder = os.path.join(data_dir, name)
    version = version or _highest_version(folder)
    info_file = os.path.join(folder, version or "", "dataset_info.json")
    if version is None or not os.path.isfile(info_file):
        wanted = name if version is None else f"{name}:{version}"
        raise UsageError(
            f"{wanted} is not prepared in {data_dir}: run `tfds build {wanted} --data_dir {data_dir}`, "
            "or give --tfds_data_dir"
        )
    # Slow to import, and only this kind of source needs it.
    import tensorflow_datasets as tfds

    try:
        info = tfds.builder_from_directory(os.path.dirname(info_file)).info
    except Exception as e:
        raise UsageError(f"{os.path.dirname(info_file)} cannot be read as a data set: {e}") from e
    if info.file_format is not tfds.core.FileFormat.TFRECORD:
        raise UsageError(f"tfds:{pattern} is prepared as {info.file_format.value}: prepare it as tfrecord")
    if split not in info.splits:
        raise UsageError(f"tfds:{pattern}: no split {split!r}; available splits: {', '.join(sorted(info.splits))}")
    return [os.fspath(path) for path in info.splits[split].filepaths], _feature_names(info.features, pattern, tfds)


def _highest_version(folder: str) -> str | None:
    names = os.listdir(folder) if os.path.isdir(folder) else []
    versions = [name for name in names if _VERSION.fullmatch(name)]
    return max(versions, key=lambda version: tuple(map(int, version.split("."))), default=None)


def _feature_names(features, pattern: str, tfds) -> FeatureNames:
    """The one image and the one class label among the features; an id if there is a text feature of that name."""
    images = [name for name, feature in features.items() if isinstance(feature, tfds.features.Image)]
    labels = [name for name, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    names = FeatureNames()
    image = names.image if names.image in images else next(iter(images), None)
    if image is None or (image != names.image and len(images) > 1):
        there = ", ".join(sorted(features))
        raise UsageError(f"tfds:{pattern} has {len(images)} image features, not one; features there: {there}")
    dtype = np.dtype(features[image].np_dtype)
    if dtype not in (np.uint8, np.uint16):
        raise UsageError(f"tfds:{pattern}: its images are {dtype}, not encoded pictures of 8 or 16 bits")
    label = names.label if names.label in labels or len(labels) != 1 else labels[0]
    return FeatureNames(image, label, names.id)
