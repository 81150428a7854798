"""Decoding, raw pixels and geometry, against NumPy, Pillow and `tf.image`, and hostile files."""

import functools
import io
import re
import struct
import tracemalloc
import zlib
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from odin_beam.transforms import limits
from odin_beam.transforms.errors import ImageError
from odin_beam.transforms.images import decoding, example, resize
from odin_beam.transforms.images import png as plain_pngs
from odin_beam.transforms.images.example import ImageRecord
from odin_beam.transforms.images.geometry import CROP_MODES, INTERPOLATIONS, Geometry
from odin_beam.transforms.shards.shard import FeatureNames
from tests.helpers import samples

RGB = samples.random_images(1, (5, 7, 3), seed=1)[0]
GREY = samples.random_images(1, (5, 7, 1), seed=2)[0]
ALPHA = samples.random_images(1, (5, 7, 1), seed=3)[0]
PALETTE = samples.random_images(1, (16, 3), seed=4)[0]
INDEXES = samples.random_images(1, (5, 7), seed=5)[0] % 16
WIDE = np.random.default_rng(6).integers(0, 1 << 16, (5, 7, 4), dtype=np.uint16)
TWO_BITS = np.arange(35, dtype=np.uint8).reshape(5, 7) % 4
FRAMES = samples.random_images(3, (5, 7, 3), seed=7)
MEGABYTE = 1 << 20


def saved(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"", behind: bytes = b""
) -> bytes:
    """A PNG from its filtered rows, with chunks of one's own before and behind the pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + extra + pixels + behind + chunk(b"IEND", b"")


def png_of(array: np.ndarray, depth: int, colour: int) -> bytes:
    """A PNG of an array of samples, each row unfiltered."""
    samples_of_row = array.reshape(len(array), -1)
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in samples_of_row]
    else:
        bits = (samples_of_row[..., None] >> np.arange(depth - 1, -1, -1)) & 1
        rows = [np.packbits(row).tobytes() for row in bits.reshape(len(array), -1)]
    return png(array.shape[1], array.shape[0], depth, colour, b"".join(b"\0" + row for row in rows))


def palette_image() -> Image.Image:
    image = Image.fromarray(INDEXES, "P")
    image.putpalette(PALETTE.tobytes())
    return image


def joined(*channels: np.ndarray) -> np.ndarray:
    return np.concatenate(channels, axis=2)


def as_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey.reshape(*grey.shape[:2], 1), 3, axis=2)


def assert_luma_of(grey: np.ndarray, rgb: np.ndarray) -> None:
    """ITU-R 601, rounded."""
    assert grey.shape == (*rgb.shape[:2], 1)
    assert grey.dtype == np.uint8
    assert np.abs(grey[..., 0] - rgb @ np.array([0.299, 0.587, 0.114])).max() <= 0.501


def error_of(call, *arguments) -> ImageError:
    with pytest.raises(ImageError) as caught:
        call(*arguments)
    return caught.value


LOSSLESS = {
    "PNG colour": (samples.encoded(RGB), RGB),
    "PNG colour, alpha": (samples.encoded(joined(RGB, ALPHA)), RGB),
    "PNG colour, one colour transparent": (saved(Image.fromarray(RGB), "PNG", transparency=tuple(RGB[0, 0])), RGB),
    "PNG grey": (samples.encoded(GREY), as_rgb(GREY)),
    "PNG grey, alpha": (saved(Image.fromarray(joined(GREY, ALPHA), "LA"), "PNG"), as_rgb(GREY)),
    "PNG grey, one grey transparent": (saved(Image.fromarray(GREY[..., 0]), "PNG", transparency=9), as_rgb(GREY)),
    "PNG palette": (saved(palette_image(), "PNG"), PALETTE[INDEXES]),
    "PNG palette, one entry transparent": (saved(palette_image(), "PNG", transparency=3), PALETTE[INDEXES]),
    "PNG palette, alpha": (saved(palette_image(), "PNG", transparency=bytes(range(0, 160, 10))), PALETTE[INDEXES]),
    "PNG 1 bit": (saved(Image.fromarray(GREY[..., 0] > 99), "PNG"), as_rgb((GREY > 99) * np.uint8(255))),
    "PNG 2 bit grey": (png_of(TWO_BITS, 2, 0), as_rgb(TWO_BITS * np.uint8(85))),
    "PNG 16 bit grey": (png_of(WIDE[..., :1], 16, 0), as_rgb(WIDE[..., :1] // 256)),
    "PNG 16 bit grey, alpha": (png_of(WIDE[..., :2], 16, 4), as_rgb(WIDE[..., :1] // 256)),
    "PNG 16 bit colour": (png_of(WIDE[..., :3], 16, 2), WIDE[..., :3] // 256),
    "PNG 16 bit colour, alpha": (png_of(WIDE, 16, 6), WIDE[..., :3] // 256),
    "GIF palette": (saved(palette_image(), "GIF"), PALETTE[INDEXES]),
    "GIF palette, one entry transparent": (saved(palette_image(), "GIF", transparency=3), PALETTE[INDEXES]),
    "GIF grey": (samples.encoded(GREY, "GIF"), as_rgb(GREY)),
    "BMP colour": (samples.encoded(RGB, "BMP"), RGB),
    "BMP colour, alpha": (samples.encoded(joined(RGB, ALPHA), "BMP"), RGB),
    "BMP palette": (saved(palette_image(), "BMP"), PALETTE[INDEXES]),
    "BMP grey": (samples.encoded(GREY, "BMP"), as_rgb(GREY)),
    "BMP 1 bit": (saved(Image.fromarray(GREY[..., 0] > 99), "BMP"), as_rgb((GREY > 99) * np.uint8(255))),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize(("data", "rgb"), LOSSLESS.values(), ids=LOSSLESS)
def test_lossless_formats_give_their_pixels_in_colour_and_in_grey(data, rgb):
    decoded = decoding.decode(data, 3)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, rgb)
    assert_luma_of(decoding.decode(data, 1), rgb)


@pytest.mark.parametrize("ink", [(0, 0, 0, 0), (10, 200, 30, 40), (255, 0, 128, 100), (0, 0, 0, 255)])
def test_cmyk_jpeg_is_light_less_its_inks(ink):
    data = saved(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100)
    expected = [(255 - colour) * (255 - ink[3]) / 255 for colour in ink[:3]]
    np.testing.assert_allclose(decoding.decode(data, 3).reshape(-1, 3), [expected] * 256, atol=2.5)
    assert_luma_of(decoding.decode(data, 1), decoding.decode(data, 3))


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("quality", [5, 75, 100])
def test_jpeg_pixels_are_pillows_to_the_bit(quality, subsampling, progressive):
    options = {"quality": quality, "subsampling": subsampling, "progressive": progressive}
    for height, width in [(1, 1), (1, 17), (8, 8), (9, 2), (15, 33), (37, 53)]:
        image = samples.random_images(1, (height, width, 3), seed=quality + width)[0]
        colour, grey = (
            saved(Image.fromarray(image), "JPEG", **options),
            samples.encoded(image[..., :1], "JPEG", **options),
        )
        opened = Image.open(io.BytesIO(colour))
        np.testing.assert_array_equal(decoding.decode(colour, 3), np.asarray(opened))
        np.testing.assert_array_equal(decoding.decode(colour, 1)[..., 0], np.asarray(opened.convert("L")))
        opened = np.asarray(Image.open(io.BytesIO(grey)))
        np.testing.assert_array_equal(decoding.decode(grey, 1)[..., 0], opened)
        np.testing.assert_array_equal(decoding.decode(grey, 3), as_rgb(opened))


def test_jpeg_stored_as_rgb_is_not_taken_for_ycbcr():
    data = samples.encoded(RGB, "JPEG", quality=100, keep_rgb=True)
    np.testing.assert_allclose(decoding.decode(data, 3), RGB.astype(float), atol=3)


@pytest.mark.parametrize("image_format", ["GIF", "MPO", "PNG"])
def test_of_several_frames_the_first_counts(image_format):
    first, *others = map(Image.fromarray, FRAMES)
    data = saved(first, image_format, save_all=True, append_images=others)
    opened = Image.open(io.BytesIO(data))
    assert opened.n_frames == 3
    np.testing.assert_array_equal(decoding.decode(data, 3), np.asarray(opened.convert("RGB")))


def test_exif_orientation_is_ignored():
    turned = Image.Exif()
    turned[0x112] = 6
    with_orientation, without = (samples.encoded(RGB, "JPEG", **options) for options in ({"exif": turned}, {}))
    assert len(with_orientation) > len(without)
    np.testing.assert_array_equal(decoding.decode(with_orientation, 3), decoding.decode(without, 3))


# Hostile and broken files.


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def jpeg_of_size(height: int, width: int) -> bytes:
    data = samples.encoded(RGB, "JPEG")
    return patched(data, data.index(b"\xff\xc0") + 5, struct.pack(">HH", height, width))


def gif_of_screen(width: int, height: int) -> bytes:
    return patched(samples.encoded(RGB, "GIF"), 6, struct.pack("<HH", width, height))


def gif_of_frame(width: int, height: int) -> bytes:
    data = samples.encoded(RGB, "GIF")
    # The image descriptor: a comma, then left and top, both 0.
    return patched(data, data.index(b",\0\0\0\0") + 5, struct.pack("<HH", width, height))


def bmp_of_size(width: int, height: int) -> bytes:
    return patched(samples.encoded(RGB, "BMP"), 18, struct.pack("<ii", width, height))


def peak_and_error(call, *arguments) -> tuple[int, ImageError]:
    decoding.decode(samples.encoded(RGB), 3)
    tracemalloc.start()
    try:
        error = error_of(call, *arguments)
        return tracemalloc.get_traced_memory()[1], error
    finally:
        tracemalloc.stop()


HUGE = {
    "PNG": png(60_000, 60_000, 8, 2, b"x"),
    "PNG just above": png(9_460, 9_460, 8, 2, b"x"),
    "largest PNG": png(2**31 - 1, 2**31 - 1, 1, 0, b"x"),
    "GIF": gif_of_screen(65_535, 65_535),
    "GIF just above": gif_of_screen(9_460, 9_460),
    "GIF frame": gif_of_frame(65_535, 65_535),
    "BMP": bmp_of_size(60_000, 60_000),
    "BMP just above": bmp_of_size(9_460, -9_460),
    "JPEG": jpeg_of_size(65_535, 65_535),
    "JPEG just above": jpeg_of_size(9_460, 9_460),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("data", HUGE.values(), ids=HUGE)
@pytest.mark.parametrize(
    "look", [functools.partial(decoding.decode, channels=3), decoding.check_header], ids=["decode", "header"]
)
def test_a_huge_size_in_the_header_is_refused_before_anything_is_allocated(data, look):
    peak, error = peak_and_error(look, data)
    assert error.reason == "too_many_pixels"
    assert "89478485 pixels" in error.detail
    assert peak < MEGABYTE


def test_the_pixel_limit_is_exact(monkeypatch):
    monkeypatch.setattr(limits, "MAX_PIXELS", RGB.shape[0] * RGB.shape[1])
    assert decoding.decode(samples.encoded(RGB), 3).shape == RGB.shape
    monkeypatch.setattr(limits, "MAX_PIXELS", RGB.shape[0] * RGB.shape[1] - 1)
    assert error_of(decoding.decode, samples.encoded(RGB), 3).detail == "7 x 5; the limit is 34 pixels"


BOMB = zlib.compress(bytes(50 * MEGABYTE))


@pytest.mark.parametrize("place", ["extra", "behind"])
@pytest.mark.parametrize(
    "bomb", [chunk(b"zTXt", b"k\0\0" + BOMB), chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB)], ids=["zTXt", "iTXt"]
)
def test_a_text_chunk_that_unpacks_to_a_flood_is_not_unpacked(bomb, place):
    peak, error = peak_and_error(decoding.decode, png(1, 1, 8, 2, b"\0abc", **{place: bomb}), 3)
    assert error.reason == "undecodable"
    assert peak < 8 * MEGABYTE


def test_a_colour_profile_that_unpacks_to_a_flood_is_not_unpacked():
    peak, error = peak_and_error(decoding.decode, png(1, 1, 8, 2, b"\0abc", chunk(b"iCCP", b"k\0\0" + BOMB)), 3)
    assert error.reason == "undecodable"
    assert peak < 8 * MEGABYTE


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "BMP", "GIF"])
def test_a_cut_file_is_undecodable(image_format, channels):
    data = samples.encoded(samples.random_images(1, (40, 40, 3))[0], image_format)
    for size in (20, int(0.6 * len(data)), int(0.9 * len(data))):
        error = error_of(decoding.decode, data[:size], channels)
        assert error.reason == "undecodable"
        assert re.search("Truncated|truncated|Invalid JPEG data|are no PNG", error.detail)
        assert not set("{}\n") & set(error.detail)


@pytest.mark.parametrize(
    "data",
    [b"", b"?", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"hello" * 100, samples.encoded(RGB, "TIFF")],
)
def test_what_is_no_image_of_a_known_format_is_undecodable(data):
    error = error_of(decoding.decode, data, 3)
    assert str(error).startswith(f"undecodable: {len(data)} bytes that are no PNG, JPEG, GIF or BMP")


def test_check_header_takes_what_decodes_and_names_what_does_not():
    for data, _ in LOSSLESS.values():
        decoding.check_header(data)
    assert error_of(decoding.check_header, b"hello" * 100).reason == "not_an_image"
    # The pixels are not looked at.
    decoding.check_header(samples.encoded(RGB)[:-30])


# Raw pixels.


def pixels_of(data: bytes, input_shape, raw_shape=None, geometry=Geometry()) -> np.ndarray:
    return decoding.pixels(ImageRecord(data, None, None, raw_shape), input_shape, geometry)


def test_pixels_are_float32_between_0_and_1():
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    made = pixels_of(samples.encoded(image), (16, 16, 1))
    assert made.dtype == np.float32
    np.testing.assert_array_equal(made.ravel(), np.arange(256, dtype=np.float32) / np.float32(255))


def test_raw_pixels_of_the_models_shape_need_no_features():
    for image in (RGB, GREY):
        np.testing.assert_array_equal(pixels_of(image.tobytes(), image.shape), image / np.float32(255))


@pytest.mark.parametrize(
    ("image", "rgb"),
    [(RGB, RGB), (GREY, as_rgb(GREY)), (joined(RGB, ALPHA), RGB)],
    ids=["colour", "grey", "colour and alpha"],
)
def test_raw_pixels_of_the_shape_that_features_tell(image, rgb):
    colour = pixels_of(image.tobytes(), (5, 7, 3), image.shape)
    np.testing.assert_array_equal(colour, rgb / np.float32(255))
    grey = pixels_of(image.tobytes(), (5, 7, 1), image.shape)
    assert_luma_of(np.rint(grey * 255).astype(np.uint8), rgb)


def test_raw_pixels_of_another_size_are_resized():
    made = pixels_of(RGB.tobytes(), (10, 14, 3), RGB.shape, Geometry(interpolation="nearest"))
    np.testing.assert_array_equal(made, RGB.repeat(2, 0).repeat(2, 1) / np.float32(255))


def test_features_of_a_size_do_not_make_an_encoded_image_raw():
    np.testing.assert_array_equal(pixels_of(samples.encoded(RGB), (5, 7, 3), (5, 7, 3)), RGB / np.float32(255))


def test_a_raw_image_that_begins_with_bmps_letters_is_raw():
    image = RGB.copy()
    image[0, 0, :2] = np.frombuffer(b"BM", np.uint8)
    np.testing.assert_array_equal(pixels_of(image.tobytes(), RGB.shape), image / np.float32(255))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "BMP"])
def test_an_encoded_image_as_long_as_a_raw_one_is_encoded(image_format):
    data = samples.encoded(RGB, image_format)
    assert not decoding.is_raw(data, (1, len(data), 1))
    assert decoding.is_raw(bytes(len(data)), (1, len(data), 1))


@pytest.mark.parametrize("raw_shape", [(5, 7, 1), (0, 0, 3), (-5, -7, 3), (5, 21, 2), (2**40, 2**40, 3)])
def test_raw_pixels_that_do_not_fit_their_shape_are_undecodable(raw_shape):
    assert error_of(pixels_of, RGB.tobytes(), (5, 7, 3), raw_shape).reason == "undecodable"
    assert error_of(pixels_of, RGB.tobytes()[1:], (5, 7, 3), None).reason == "undecodable"


# Examples.


def several(*values) -> tf.train.Feature:
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


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
        (tf.train.Feature(), None),
        (2.0, None),
        (b"7", None),
    ],
)
def test_a_label_is_one_integer_or_none(label, expected):
    assert parsed(label=label).label == expected


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
    assert str(error) == f"not_an_example: {len(payload)} bytes that are no tf.train.Example"


def test_an_empty_payload_is_an_example_without_features():
    assert error_of(example.parse_example, b"", FeatureNames()).reason == "no_image"


# Geometry.


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
def test_center_crop_without_resizing_takes_the_middle_pixels_as_they_are(shape, rows, columns):
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
    assert str(error) == (f"wrong_size: {shape[0]} x {shape[1]}; the classifier takes 32 x 30, see --resize and --crop")


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


# Fuzz.

SEEDS = [data for data, _ in LOSSLESS.values()] + [
    samples.encoded(RGB, "JPEG"),
    samples.encoded(RGB, "JPEG", progressive=True),
    samples.encoded(GREY, "JPEG"),
    saved(Image.new("CMYK", (7, 5), (10, 200, 30, 40)), "JPEG"),
]
GEOMETRIES = [Geometry(), Geometry(resize="shorter_side", crop="center", interpolation="bicubic", antialias=True)]


def assert_pixels_or_image_error(give_record, input_shape, geometry) -> None:
    try:
        # A low limit, so that sizes which accidents make are quickly dealt with.
        with mock.patch.object(limits, "MAX_PIXELS", 1 << 16):
            made = decoding.pixels(give_record(), input_shape, geometry)
    except ImageError as error:
        assert error.reason in ("undecodable", "too_many_pixels", "not_an_example", "no_image")
        assert 0 < len(error.detail) < 400
    else:
        assert made.shape == input_shape
        assert made.dtype == np.float32
        assert made.min() >= 0
        assert made.max() <= 1


@pytest.mark.filterwarnings("ignore::UserWarning")
@samples.fuzzed(600)
@given(st.sampled_from(SEEDS).flatmap(samples.damaged), st.sampled_from([1, 3]), st.sampled_from(GEOMETRIES))
def test_a_damaged_image_gives_pixels_or_an_image_error(data, channels, geometry):
    assert_pixels_or_image_error(lambda: ImageRecord(data, None, None, None), (8, 8, channels), geometry)


@samples.fuzzed(300)
@given(
    st.sampled_from([samples.encoded(GREY), GREY.tobytes()])
    .map(lambda data: samples.example(image=data, label=3, id="x", height=5, width=7, channels=1))
    .flatmap(samples.damaged)
)
def test_a_damaged_example_gives_pixels_or_an_image_error(payload):
    assert_pixels_or_image_error(lambda: example.parse_example(payload, FeatureNames()), (8, 8, 3), Geometry())


# The short way for plain PNG, against the way of all the others.


def outcome(data: bytes, channels: int) -> tuple:
    """What decoding ends in: shape and pixels, or reason and detail."""
    try:
        decoded = decoding.decode(data, channels)
    except ImageError as e:
        return e.reason, e.detail
    return decoded.shape, decoded.dtype, decoded.tobytes()


def assert_both_ways_agree(data: bytes, channels: int) -> None:
    short = outcome(data, channels)
    with mock.patch.object(decoding, "plain_png", return_value=None):
        assert short == outcome(data, channels)


PLAIN = [samples.encoded(RGB), samples.encoded(GREY), samples.encoded(joined(RGB, ALPHA)), png_of(RGB, 8, 2)]
STREAM = zlib.compress(b"".join(bytes([i]) + row.tobytes() for i, row in enumerate(RGB)))
CHUNKS = st.sampled_from(
    [
        chunk(b"IDAT", b""),
        chunk(b"IDAT", STREAM[9:]),
        chunk(b"IDAT", b"junk"),
        chunk(b"IEND", b""),
        chunk(b"PLTE", PALETTE.tobytes()),
        chunk(b"tRNS", struct.pack(">HHH", *RGB[0, 0])),
        chunk(b"gAMA", struct.pack(">I", 45455)),
        chunk(b"gAMA", b""),
        chunk(b"acTL", struct.pack(">II", 2, 0)),
        chunk(b"tEXt", b"Title\0fine"),
        chunk(b"zTXt", b"k\0\0" + BOMB[:99]),
        chunk(b"vpAg", b"x"),
        chunk(b"QQQQ", b""),
        b"junk",
    ]
)
STREAMS = st.one_of(
    samples.damaged(STREAM),
    st.sampled_from([STREAM[:9], STREAM[:-4], STREAM[:-1], STREAM + b"junk", STREAM * 2, b""]),
    st.binary(min_size=80, max_size=170).map(zlib.compress),
    st.lists(st.tuples(st.integers(0, 6), st.binary(min_size=21, max_size=21)), min_size=3, max_size=7).map(
        lambda rows: zlib.compress(b"".join(bytes([kind]) + row for kind, row in rows))
    ),
)
HEADER = (7, 5, 8, 2, 0, 0, 0)
ODD_FIELDS = ((0, 6, 8, 2**31), (0, 4, 6, 2**31), (1, 7, 16), (0, 1, 3, 4, 6, 9), (1,), (1,), (1,))
PLACES = ("header", "pixels", "name", "checksum", "behind the header", "behind the pixels", "behind the end")


@st.composite
def strange_pngs(draw) -> bytes:
    """PNG files with one or two things out of the ordinary, all checksums right unless they are one of these."""
    strange = draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=2, unique=True))
    fields = list(HEADER)
    if "header" in strange:
        at = draw(st.integers(0, len(fields) - 1))
        fields[at] = draw(st.sampled_from(ODD_FIELDS[at]))
    name = draw(st.sampled_from([b"QQQQ", b"fdAT", b"idAT"])) if "name" in strange else b"IDAT"
    chunks = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", *fields)),
        chunk(name, draw(STREAMS) if "pixels" in strange else STREAM),
        chunk(b"IEND", b""),
    ]
    if "checksum" in strange:
        at = draw(st.integers(0, 2))
        chunks[at] = chunks[at][:-4] + chunks[at][:-5:-1]
    others = [draw(CHUNKS) if place in strange else b"" for place in PLACES[-3:]]
    return b"\x89PNG\r\n\x1a\n" + b"".join(b"".join(pair) for pair in zip(chunks, others, strict=True))


@pytest.mark.parametrize("data", PLAIN, ids=["colour", "grey", "colour and alpha", "unfiltered"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_plain_png_takes_the_short_way(data, channels):
    assert_both_ways_agree(data, channels)
    with mock.patch.object(Image, "open", side_effect=AssertionError("the long way")):
        decoding.decode(data, channels)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_cut_anywhere_ends_alike_both_ways(channels):
    for data in PLAIN:
        for size in range(len(data) + 1):
            assert_both_ways_agree(data[:size], channels)


def test_a_png_with_any_bit_turned_ends_alike_both_ways():
    for data in PLAIN:
        for at in range(len(data)):
            assert_both_ways_agree(patched(data, at, bytes([data[at] ^ 1 << at % 8])), 3)


def test_pixels_in_more_than_one_piece_end_alike_both_ways():
    noise = samples.random_images(1, (160, 160, 3))[0]
    for size in (145, 149):
        data = png_of(noise[:size, :size], 8, 2)
        assert_both_ways_agree(data, 3)
        assert (plain_pngs.plain_png(data) is None) == (size == 149)
    two = chunk(b"IDAT", STREAM[:40]) + chunk(b"IDAT", STREAM[40:])
    whole = png(7, 5, 8, 2, b"")
    assert_both_ways_agree(whole[:33] + two + whole[-12:], 3)


@pytest.mark.filterwarnings("ignore::UserWarning")
@samples.fuzzed(600)
@given(st.sampled_from(PLAIN).flatmap(samples.damaged), st.sampled_from([1, 3]))
def test_a_damaged_png_ends_alike_both_ways(data, channels):
    assert_both_ways_agree(data, channels)


@pytest.mark.filterwarnings("ignore::UserWarning")
@samples.fuzzed(1500)
@given(strange_pngs(), st.sampled_from([1, 3]))
def test_a_strange_png_ends_alike_both_ways(data, channels):
    assert_both_ways_agree(data, channels)


def test_pixels_are_put_where_they_are_wanted():
    for geometry, size in ((Geometry(), (5, 7)), (Geometry(), (9, 4)), (Geometry(interpolation="bicubic"), (12, 12))):
        out = np.full((*size, 3), np.nan, np.float32)
        record = ImageRecord(samples.encoded(RGB), None, None, None)
        assert np.shares_memory(decoding.pixels(record, (*size, 3), geometry, out), out)
        np.testing.assert_array_equal(out, decoding.pixels(record, (*size, 3), geometry))
