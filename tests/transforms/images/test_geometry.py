"""Resizing and cropping, against `tf.image`."""

import numpy as np
import pytest
import tensorflow as tf

from odin_beam.transforms.images import resize
from odin_beam.transforms.images.geometry import CROP_MODES, INTERPOLATIONS, Geometry
from tests.helpers import samples
from tests.helpers.image_files import MEGABYTE, error_of, peak_and_error


def resized(image, height: int, width: int, interpolation="bilinear", antialias=False) -> np.ndarray:
    """`tf.image.resize` as the reference, in [0, 1]."""
    made = tf.image.resize(image.astype(np.float32), (height, width), interpolation, antialias=antialias).numpy()
    return np.clip(made / np.float32(255), 0, 1)


@pytest.mark.parametrize("antialias", [False, True], ids=["sampling", "antialias"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("shape", [(20, 41, 3), (50, 13, 1), (16, 24, 3)], ids=str)
def test_stretch_resizes_to_the_size_by_every_interpolation(shape, interpolation, antialias):
    image = samples.random_images(1, shape)[0]
    made = resize.fit(image, (16, 24), Geometry(interpolation=interpolation, antialias=antialias))
    assert made.dtype == np.float32
    if shape[:2] == (16, 24):
        np.testing.assert_array_equal(made, image / np.float32(255))
    else:
        np.testing.assert_array_equal(made, resized(image, 16, 24, interpolation, antialias))


def test_interpolations_by_hand():
    image = np.array([[10, 20, 30, 40], [50, 60, 70, 80]], np.uint8)[..., None]
    halves = np.array([[[35], [55]]], np.float32) / 255
    for interpolation in ("bilinear", "area"):
        made = resize.fit(image, (1, 2), Geometry(interpolation=interpolation))
        np.testing.assert_allclose(made, halves, rtol=1e-6)
    doubled = resize.fit(image, (4, 8), Geometry(interpolation="nearest"))
    np.testing.assert_array_equal(doubled, image.repeat(2, 0).repeat(2, 1) / np.float32(255))


def test_antialias_averages_where_sampling_skips():
    stripes = np.zeros((1, 64, 1), np.uint8)
    stripes[:, 3::8] = 255
    sampled, averaged = (resize.fit(stripes, (1, 8), Geometry(antialias=antialias)) for antialias in (False, True))
    np.testing.assert_allclose(sampled, 0.5, atol=1e-6)
    assert 0.05 < averaged.min() < averaged.max() < 0.3


@pytest.mark.parametrize("interpolation", ["bicubic", "lanczos3", "lanczos5"])
def test_interpolations_that_overshoot_are_clipped(interpolation):
    image = np.zeros((8, 8, 1), np.uint8)
    image[:, 4:] = 255
    unclipped = tf.image.resize(image, (16, 16), interpolation).numpy()
    assert unclipped.min() < -5
    assert unclipped.max() > 260
    made = resize.fit(image, (16, 16), Geometry(interpolation=interpolation))
    np.testing.assert_array_equal(made, np.clip(unclipped, 0, 255) / np.float32(255))
    assert (made.min(), made.max()) == (0, 1)


@pytest.mark.parametrize(
    ("shape", "scaled", "rows", "columns"),
    [
        # Factors 1.6, 1.2, 0.8 and 24/25; the last two need no scaling, respectively no crop.
        ((20, 40), (32, 64), slice(0, 32), slice(20, 44)),
        ((40, 20), (48, 24), slice(8, 40), slice(0, 24)),
        ((40, 45), (32, 36), slice(0, 32), slice(6, 30)),
        ((50, 25), (48, 24), slice(8, 40), slice(0, 24)),
        ((33, 24), (33, 24), slice(0, 32), slice(0, 24)),
        ((64, 48), (32, 24), slice(0, 32), slice(0, 24)),
    ],
    ids=str,
)
@pytest.mark.parametrize("antialias", [False, True], ids=["sampling", "antialias"])
def test_shorter_side_covers_the_size_and_the_middle_is_cut_out(shape, scaled, rows, columns, antialias):
    image = samples.random_images(1, (*shape, 3))[0]
    geometry = Geometry(resize="shorter_side", crop="center", interpolation="bicubic", antialias=antialias)
    made = resize.fit(image, (32, 24), geometry)
    assert made.shape == (32, 24, 3)
    np.testing.assert_array_equal(made, resized(image, *scaled, "bicubic", antialias)[rows, columns])


@pytest.mark.parametrize(
    ("shape", "rows", "columns"),
    [
        ((36, 36), slice(2, 34), slice(2, 34)),
        ((35, 39), slice(1, 33), slice(3, 35)),
        ((32, 36), slice(0, 32), slice(2, 34)),
        ((32, 32), slice(0, 32), slice(0, 32)),
    ],
    ids=str,
)
def test_center_crop_alone_takes_the_middle_pixels_as_they_are(shape, rows, columns):
    image = samples.random_images(1, (*shape, 3))[0]
    made = resize.fit(image, (32, 32), Geometry(resize="none", crop="center"))
    np.testing.assert_array_equal(made, image[rows, columns] / np.float32(255))


@pytest.mark.parametrize(
    ("crop", "shape"),
    [("none", (36, 36)), *((crop, shape) for crop in CROP_MODES for shape in ((31, 32), (40, 20), (20, 40)))],
    ids=str,
)
def test_a_size_to_which_the_geometry_does_not_lead_is_wrong(crop, shape):
    geometry = Geometry(resize="none", crop=crop)
    error = error_of(resize.fit, np.zeros((*shape, 3), np.uint8), (32, 30), geometry)
    assert str(error) == (f"wrong_size: {shape[0]} x {shape[1]}; the classifier takes 32 x 30, see `resize` and `crop`")


@pytest.mark.parametrize(("shape", "scaled"), [((1, 20_000), "224 x 4480000"), ((20_000, 1), "4480000 x 224")])
def test_an_elongated_image_is_not_blown_up(shape, scaled):
    geometry = Geometry(resize="shorter_side", crop="center")
    peak, error = peak_and_error(resize.fit, np.zeros((*shape, 3), np.uint8), (224, 224), geometry)
    assert str(error) == f"too_many_pixels: {shape[0]} x {shape[1]} scaled to {scaled}"
    assert peak < MEGABYTE
    assert resize.fit(np.zeros((*shape, 3), np.uint8), (8, 8), Geometry()).shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("settings_given", "message"),
    [
        ({"resize": "squash"}, r"resize is one of stretch, shorter_side, none, not 'squash'"),
        ({"crop": "left"}, r"crop is one of none, center, not 'left'"),
        ({"interpolation": "cubic"}, r"interpolation is one of bilinear, .*, not 'cubic'"),
        ({"image_size": (32, 0)}, r"two positive numbers, not \(32, 0\)"),
        ({"image_size": (32,)}, r"two positive numbers, not \(32,\)"),
        ({"image_size": (32, 32, 3)}, r"two positive numbers, not \(32, 32, 3\)"),
        ({"resize": "shorter_side"}, r"needs crop center"),
    ],
)
def test_a_geometry_that_makes_no_sense_is_refused(settings_given, message):
    assert Geometry(image_size=(1, 1)).image_size == (1, 1)
    with pytest.raises(ValueError, match=message):
        Geometry(**settings_given)
