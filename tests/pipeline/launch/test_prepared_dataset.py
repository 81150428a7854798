"""Data sets prepared by TensorFlow Datasets, here by its own writer."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.launch.prepared_dataset import find_split
from odin_beam.transforms.images import decoding, example
from odin_beam.transforms.shards import framing
from odin_beam.transforms.shards.shard import FeatureNames
from tests.helpers import samples

IMAGES = samples.random_images(12, seed=4)


def prepare(folder, version="1.0.0", features=None, file_format="tfrecord"):
    features = features or {
        "image": tfds.features.Image(shape=(8, 8, 3)),
        "label": tfds.features.ClassLabel(num_classes=4),
    }
    rows = [
        (i, {name: IMAGES[i] if isinstance(kind, tfds.features.Image) else i % 4 for name, kind in features.items()})
        for i in range(12)
    ]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny",
        version=version,
        data_dir=folder,
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": rows[:4], "test": rows[4:]},
        disable_shuffling=True,
        file_format=file_format,
    )


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for version in ("1.0.0", "1.9.0", "1.10.0"):
        prepare(folder, version)
    return str(folder)


def test_a_split_is_its_shards_whose_examples_are_the_images(data_dir):
    paths, features = find_split("tiny:1.0.0/test", data_dir)
    examples = [example.parse_example(record.payload, features) for path in paths for record in framing.read_file(path)]
    np.testing.assert_array_equal([decoding.decode(example.image, 3) for example in examples], IMAGES[4:])
    assert [example.label for example in examples] == [i % 4 for i in range(4, 12)]


def test_without_version_it_is_the_highest(data_dir):
    assert "/tiny/1.10.0/" in find_split("tiny/train", data_dir)[0][0]


def test_features_are_called_as_features_json_says(tmp_path):
    features = {"photo": tfds.features.Image(shape=(8, 8, 3)), "breed": tfds.features.ClassLabel(num_classes=4)}
    prepare(tmp_path, features=features)
    assert find_split("tiny/test", str(tmp_path))[1] == FeatureNames("photo", "breed", "id")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("tiny/validation", "no split 'validation'; available splits: test, train"),
        ("huge/test", "huge is not prepared in .*: run `tfds build huge --data_dir .*, or give --tfds_data_dir"),
        ("tiny:2.0.0/test", "tiny:2.0.0 is not prepared"),
        ("tiny", "not of the form tfds:NAME"),
        ("tiny/test[:10%]", "not of the form tfds:NAME"),
        ("../../etc/test", "not of the form tfds:NAME"),
    ],
)
def test_what_is_not_there_is_a_usage_error_that_says_what_to_do(data_dir, pattern, message):
    with pytest.raises(UsageError, match=message):
        find_split(pattern, data_dir)


def test_a_data_set_of_no_image_or_several_is_a_usage_error(tmp_path):
    prepare(tmp_path, features={name: tfds.features.Image(shape=(8, 8, 3)) for name in ("left", "right")})
    with pytest.raises(UsageError, match="has 2 image features, not one; features there: left, right"):
        find_split("tiny/test", str(tmp_path))


def test_images_of_floating_point_are_a_usage_error(tmp_path):
    kinds = {"image": tfds.features.Image(shape=(8, 8, 1), dtype=np.float32)}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny",
        version="1.0.0",
        data_dir=tmp_path,
        features=tfds.features.FeaturesDict(kinds),
        split_datasets={"test": [(0, {"image": np.zeros((8, 8, 1), np.float32)})]},
        disable_shuffling=True,
    )
    with pytest.raises(UsageError, match="its images are float32, not encoded pictures of 8 or 16 bits"):
        find_split("tiny/test", str(tmp_path))


def test_a_folder_in_object_storage_is_a_usage_error_that_says_what_to_do_instead():
    with pytest.raises(UsageError, match="gs://b/tfds is not local: give the data set's TFRecord files"):
        find_split("tiny/test", "gs://b/tfds")


def test_a_damaged_data_set_is_a_usage_error(tmp_path):
    prepare(tmp_path)
    (tmp_path / "tiny/1.0.0/features.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read as a data set"):
        find_split("tiny/test", str(tmp_path))
