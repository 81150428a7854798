"""Image files and raw pixels become pixels, as NumPy and Pillow see them; hostile ones become errors."""

import functools
import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from odin_beam.transforms import limits
from odin_beam.transforms.images import decoding
from odin_beam.transforms.images.example import ImageRecord
from odin_beam.transforms.images.geometry import Geometry
from tests.helpers import samples
from tests.helpers.image_files import (
    ALPHA,
    BOMB,
    GREY,
    LOSSLESS,
    MEGABYTE,
    RGB,
    as_rgb,
    assert_luma_of,
    assert_pixels_or_image_error,
    chunk,
    error_of,
    joined,
    palette_image,
    patched,
    peak_and_error,
    png,
    saved,
)

FRAMES = samples.random_images(3, (5, 7, 3), seed=7)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize(("data", "rgb"), LOSSLESS.values(), ids=LOSSLESS)
def test_lossless_formats_give_their_pixels_in_colour_and_grey(data, rgb):
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


def webp_of_size(width: int, height: int, **options) -> bytes:
    """A WebP whose header declares this size: lossy, lossless, or, with alpha, of the extended kind."""
    if options.get("extended"):
        data = samples.encoded(np.full((5, 7, 4), 9, np.uint8), "WEBP")
        assert data[12:16] == b"VP8X"
        return patched(data, 24, (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little"))
    data = samples.encoded(RGB, "WEBP", **options)
    if options:
        return patched(data, 21, (width - 1 | (height - 1) << 14).to_bytes(4, "little"))
    return patched(data, 26, struct.pack("<HH", width, height))


HUGE = {
    "WebP": webp_of_size(16_383, 16_383),
    "WebP just above": webp_of_size(9_460, 9_460, lossless=True),
    "WebP canvas": webp_of_size(1 << 24, 1 << 24, extended=True),
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
def test_a_huge_size_is_refused_before_anything_is_allocated(data, look):
    peak, error = peak_and_error(look, data)
    assert error.reason == "too_many_pixels"
    assert "89478485 pixels" in error.detail
    assert peak < MEGABYTE


def test_the_pixel_limit_is_exact(monkeypatch):
    monkeypatch.setattr(limits, "MAX_PIXELS", RGB.shape[0] * RGB.shape[1])
    assert decoding.decode(samples.encoded(RGB), 3).shape == RGB.shape
    monkeypatch.setattr(limits, "MAX_PIXELS", RGB.shape[0] * RGB.shape[1] - 1)
    assert error_of(decoding.decode, samples.encoded(RGB), 3).detail == "7 x 5; the limit is 34 pixels"


@pytest.mark.parametrize("place", ["extra", "behind"])
@pytest.mark.parametrize(
    "bomb", [chunk(b"zTXt", b"k\0\0" + BOMB), chunk(b"iTXt", b"k\0\1\0\0\0" + BOMB)], ids=["zTXt", "iTXt"]
)
def test_a_text_chunk_that_unpacks_to_a_flood_is_not_unpacked(bomb, place):
    peak, error = peak_and_error(decoding.decode, png(1, 1, 8, 2, b"\0abc", **{place: bomb}), 3)
    assert error.reason == "undecodable"
    assert peak < 8 * MEGABYTE


def test_a_colour_profile_that_is_a_flood_is_not_unpacked():
    peak, error = peak_and_error(decoding.decode, png(1, 1, 8, 2, b"\0abc", chunk(b"iCCP", b"k\0\0" + BOMB)), 3)
    assert error.reason == "undecodable"
    assert peak < 8 * MEGABYTE


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "BMP", "GIF", "WEBP"])
def test_a_cut_file_is_refused(image_format, channels):
    data = samples.encoded(samples.random_images(1, (40, 40, 3))[0], image_format)
    for size in (20, int(0.6 * len(data)), int(0.9 * len(data))):
        error = error_of(decoding.decode, data[:size], channels)
        assert error.reason == ("undecodable" if "are not PNG" in error.detail else "truncated")
        assert not set("{}\n") & set(error.detail)


@pytest.mark.parametrize(
    "data",
    [b"", b"?", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM", b"hello" * 100, samples.encoded(RGB, "TIFF")],
)
def test_what_is_no_image_of_a_known_format_is_undecodable(data):
    error = error_of(decoding.decode, data, 3)
    assert str(error).startswith(f"undecodable: {len(data)} bytes that are not PNG, JPEG, GIF, BMP or WebP")


def test_an_animated_webp_is_its_first_frame():
    frames = [Image.fromarray(image) for image in samples.random_images(3, (16, 16, 3))]
    data = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True, duration=40)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert np.array_equal(decoding.decode(data, 3), np.asarray(frames[0]))


@pytest.mark.parametrize("width", [2, 4, 8])
def test_raw_pixels_of_another_type_are_named(width):
    data = np.random.default_rng(0).bytes(5 * 7 * 3 * width)
    error = error_of(decoding.pixels, ImageRecord(data, None, None, None), (5, 7, 3), Geometry())
    assert error.reason == "undecodable"
    assert (
        f"but {dict([(2, '16-bit'), (4, 'float32 or int32'), (8, 'float64 or int64')])[width]} pixels" in error.detail
    )


def test_what_is_not_an_image_is_named():
    page = b"<!DOCTYPE html><html><body>gone</body></html>"
    expected = "45 bytes that are not a readable PNG, JPEG, GIF, BMP or WebP, but an HTML page"
    assert error_of(decoding.check_header, page).detail == expected


def test_check_header_takes_what_decodes_and_names_what_does_not():
    for data, _ in LOSSLESS.values():
        decoding.check_header(data)
    assert error_of(decoding.check_header, b"hello" * 100).reason == "not_an_image"
    # The pixels are not looked at.
    decoding.check_header(samples.encoded(RGB)[:-30])


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


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "BMP", "WEBP"])
def test_an_encoded_image_as_long_as_a_raw_one_is_encoded(image_format):
    data = samples.encoded(RGB, image_format)
    assert not decoding.is_raw(data, (1, len(data), 1))
    assert decoding.is_raw(bytes(len(data)), (1, len(data), 1))


@pytest.mark.parametrize("raw_shape", [(5, 7, 1), (0, 0, 3), (-5, -7, 3), (5, 21, 2), (2**40, 2**40, 3)])
def test_raw_pixels_that_do_not_fit_their_shape_are_undecodable(raw_shape):
    assert error_of(pixels_of, RGB.tobytes(), (5, 7, 3), raw_shape).reason == "undecodable"
    assert error_of(pixels_of, RGB.tobytes()[1:], (5, 7, 3), None).reason == "undecodable"


SEEDS = [data for data, _ in LOSSLESS.values()] + [
    samples.encoded(RGB, "JPEG"),
    samples.encoded(RGB, "JPEG", progressive=True),
    samples.encoded(GREY, "JPEG"),
    saved(Image.new("CMYK", (7, 5), (10, 200, 30, 40)), "JPEG"),
]

GEOMETRIES = [Geometry(), Geometry(resize="shorter_side", crop="center", interpolation="bicubic", antialias=True)]


@pytest.mark.filterwarnings("ignore::UserWarning")
@samples.fuzzed(600)
@given(st.sampled_from(SEEDS).flatmap(samples.damaged), st.sampled_from([1, 3]), st.sampled_from(GEOMETRIES))
def test_a_damaged_image_gives_pixels_or_an_image_error(data, channels, geometry):
    assert_pixels_or_image_error(lambda: ImageRecord(data, None, None, None), (8, 8, channels), geometry)


def test_pixels_are_put_where_they_are_wanted():
    for geometry, size in ((Geometry(), (5, 7)), (Geometry(), (9, 4)), (Geometry(interpolation="bicubic"), (12, 12))):
        out = np.full((*size, 3), np.nan, np.float32)
        record = ImageRecord(samples.encoded(RGB), None, None, None)
        assert np.shares_memory(decoding.pixels(record, (*size, 3), geometry, out), out)
        np.testing.assert_array_equal(out, decoding.pixels(record, (*size, 3), geometry))


@pytest.mark.parametrize(
    ("image", "channels"),
    [
        (Image.new("1", (4, 4)), 1),
        (Image.new("LA", (4, 4)), 1),
        (Image.new("I;16", (4, 4)), 1),
        (Image.new("RGBA", (4, 4)), 3),
        (Image.linear_gradient("L").convert("P"), 1),
        (palette_image(), 3),
    ],
)
def test_an_images_own_channels_are_read_from_its_header(image, channels):
    record = ImageRecord(saved(image, "PNG"), None, None, None)
    assert decoding.image_channels(record, (4, 4, 3)) == channels


@pytest.mark.parametrize(
    ("size", "shape", "channels"), [(48, None, 3), (16, (4, 4, 1), 1), (64, (4, 4, 4), 3), (5, None, None)]
)
def test_raw_pixels_have_the_channels_of_their_shape(size, shape, channels):
    assert decoding.image_channels(ImageRecord(bytes(size), None, None, shape), (4, 4, 3)) == channels
