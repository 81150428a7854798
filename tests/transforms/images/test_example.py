"""What is taken from a `tf.train.Example`."""

import functools
import math

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from odin_beam.transforms import limits
from odin_beam.transforms.images import example
from odin_beam.transforms.images.example import ImageRecord
from odin_beam.transforms.images.geometry import Geometry
from odin_beam.transforms.shards.shard import FeatureNames
from tests.helpers import samples
from tests.helpers.image_files import GREY, RGB, assert_pixels_or_image_error, error_of


def several(*values) -> tf.train.Feature:
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def floats(*values: float) -> tf.train.Feature:
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def parsed(names=FeatureNames(), **features) -> ImageRecord:
    """Parses an Example of these features; a value may also be a `tf.train.Feature`."""
    made = {
        name: value if isinstance(value, tf.train.Feature) else samples.feature(value)
        for name, value in {"image": b"pixels", **features}.items()
        if value is not None
    }
    return example.parse_example(tf.train.Example(features={"feature": made}).SerializeToString(), names)


def test_an_example_as_tensorflow_datasets_writes_it():
    assert parsed(label=7, id="cat/1.png") == ImageRecord(b"pixels", 7, "cat/1.png", None)


def test_feature_names_are_the_users():
    names = FeatureNames("image/encoded", "image/class", "image/name")
    features = {"image/encoded": b"other", "image/class": 3, "image/name": b"n", "label": 4, "id": "i"}
    assert parsed(names, **features) == ImageRecord(b"other", 3, "n", None)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (0, 0),
        (-1, None),
        (2**62, 2**62),
        (several(5), 5),
        (None, None),
        (several(1, 2), None),
        (several(0, 1), None),
        (several(0, 0, 1, 0), 2),
        (several(0, 0, 2), None),
        (several(1, 1, 0), None),
        (several(0, 0, 0), None),
        (floats(0.0, 1.0), 1),
        (floats(0.5, 0.5), None),
        (floats(math.nan, 1.0), None),
        (tf.train.Feature(), None),
        (2.0, 2),
        (2.5, None),
        (-1.0, None),
        (math.nan, None),
        (math.inf, None),
        (1e9, None),
        (b"7", 7),
        (b" 12 ", 12),
        (b"-7", None),
        (b"cat", None),
        (b"", None),
        ("\u0663", None),
        (b"9" * 5000, None),
        (several(b"1", b"2"), None),
    ],
)
def test_a_label_is_what_says_one_class_index(label, expected, monkeypatch):
    assert parsed(label=label).label == expected
    monkeypatch.setattr(limits, "SMALL_RECORD_BYTES", 0)
    assert parsed(label=label).label == expected


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (3, None),
        (-1, None),
        (math.nan, None),
        (2.5, "feature 'label' is float_list of 1 (2.5), not a class index"),
        (several(0, 1), "feature 'label' is int64_list of 2 (0, 1), not a class index"),
        (floats(*[0.1] * 10), "feature 'label' is float_list of 10 (0.1, 0.1, 0.1, 0.1, ...), not a class index"),
        (b"cat\n", "feature 'label' is bytes_list of 1 ('cat\\\\n'), not a class index"),
        (tf.train.Feature(), "feature 'label' is empty"),
        (None, "no feature 'label'; features there: image"),
    ],
)
def test_a_missing_label_says_what_is_there(label, expected):
    made = {"image": samples.feature(b"x")}
    if label is not None:
        made["label"] = label if isinstance(label, tf.train.Feature) else samples.feature(label)
    payload = tf.train.Example(features={"feature": made}).SerializeToString()
    assert example.missing_label(payload, FeatureNames()) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (b"a/b.png", "a/b.png"),
        ("Größe", "Größe"),
        (b"\xff\xfebad", "\ufffd\ufffdbad"),
        (12, "12"),
        (0, "0"),
        (None, None),
        (1.5, None),
        (tf.train.Feature(), None),
        (several(b"first", b"second"), "first"),
    ],
)
def test_an_id_is_text_whatever_it_was(given, expected):
    assert parsed(id=given).id == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("/data/Größe/a.png", "/data/Größe/a.png"),
        ("gs://b/a.zip!/cat/1.png", "gs://b/a.zip!/cat/1.png"),
        ("cat/1.png", None),
        (b"/\xff.png", None),
        ("/" + "x" * 4095, "/" + "x" * 4095),
        ("/" + "x" * 4096, None),
        ("/" + "\N{OWL}" * 4096, None),
        (b"", None),
        (7, None),
        (None, None),
        (tf.train.Feature(), None),
        (several(b"/first", b"/second"), "/first"),
    ],
)
def test_a_uri_is_absolute_or_none(given, expected, monkeypatch):
    assert parsed(**{"image/uri": given}).uri == expected
    monkeypatch.setattr(limits, "SMALL_RECORD_BYTES", 0)
    assert parsed(**{"image/uri": given}).uri == expected


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"height": 5, "width": 7, "channels": 1}, (5, 7, 1)),
        ({"height": 5, "width": 7, "depth": 4}, (5, 7, 4)),
        ({"height": 5, "width": 7, "channels": 0, "depth": 4}, (5, 7, 4)),
        ({"image": bytes(105), "height": 5, "width": 7}, (5, 7, 3)),
        ({"image": bytes(35), "height": 5, "width": 7}, (5, 7, 1)),
        ({"height": 0, "width": 7}, (0, 7, 6)),
        ({"height": 5}, None),
        ({"height": 5.0, "width": 7.0, "channels": 1}, None),
    ],
)
def test_the_shape_of_raw_pixels_comes_from_features(features, expected):
    assert parsed(**features).raw_shape == expected


@pytest.mark.parametrize(
    ("features", "detail"),
    [
        ({"image": None, "img": b"", "label": 1}, "no feature 'image'; features there: img, label"),
        ({"image": None}, "no feature 'image'; features there: none"),
        ({"image": tf.train.Feature(), "x": 1}, "feature 'image' is empty; features there: image, x"),
        ({"image": 3}, "feature 'image' is int64_list of 1, not one byte string; features there: image"),
        ({"image": 3.0}, "feature 'image' is float_list of 1, not one byte string; features there: image"),
        (
            {"image": several(b"a", b"b"), "id": 1},
            "feature 'image' is bytes_list of 2, not one byte string; features there: id, image",
        ),
    ],
)
def test_an_example_without_one_image_says_what_there_is(features, detail):
    error = error_of(functools.partial(parsed, **features))
    assert (error.reason, error.detail) == ("no_image", detail)


def test_of_very_many_features_some_are_named():
    features = {f"f{i:03}": 1 for i in range(500)}
    detail = error_of(functools.partial(parsed, image=None, **features)).detail
    assert "f000, f001" in detail
    assert len(detail) < 300


@pytest.mark.parametrize("payload", [b"\xff" * 40, b"\n\xff", samples.encoded(RGB)])
def test_what_is_no_example_is_refused(payload):
    error = error_of(example.parse_example, payload, FeatureNames())
    assert str(error).startswith(f"not_an_example: {len(payload)} bytes that are not a tf.train.Example")


def test_an_empty_payload_is_an_example_without_features():
    assert error_of(example.parse_example, b"", FeatureNames()).reason == "no_image"


@samples.fuzzed(300)
@given(
    st.sampled_from([samples.encoded(GREY), GREY.tobytes()])
    .map(lambda data: samples.example(image=data, label=3, id="x", height=5, width=7, channels=1))
    .flatmap(samples.damaged)
)
def test_a_damaged_example_gives_pixels_or_an_image_error(payload):
    assert_pixels_or_image_error(lambda: example.parse_example(payload, FeatureNames()), (8, 8, 3), Geometry())
