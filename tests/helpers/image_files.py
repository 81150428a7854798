"""Image files of every kind that is read, made by hand where Pillow makes none, and what is said of them."""

import io
import struct
import tracemalloc
import zlib
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from odin_beam.transforms import limits
from odin_beam.transforms.errors import ImageError
from odin_beam.transforms.images import decoding
from tests.helpers import samples

RGB = samples.random_images(1, (5, 7, 3), seed=1)[0]

GREY = samples.random_images(1, (5, 7, 1), seed=2)[0]

ALPHA = samples.random_images(1, (5, 7, 1), seed=3)[0]

PALETTE = samples.random_images(1, (16, 3), seed=4)[0]

INDEXES = samples.random_images(1, (5, 7), seed=5)[0] % 16

WIDE = np.random.default_rng(6).integers(0, 1 << 16, (5, 7, 4), dtype=np.uint16)

TWO_BITS = np.arange(35, dtype=np.uint8).reshape(5, 7) % 4

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
    "WebP colour": (samples.encoded(RGB, "WEBP", lossless=True), RGB),
    "WebP colour, alpha": (samples.encoded(joined(RGB, ALPHA), "WEBP", lossless=True, exact=True), RGB),
    "WebP grey": (samples.encoded(GREY, "WEBP", lossless=True), as_rgb(GREY)),
    "BMP colour": (samples.encoded(RGB, "BMP"), RGB),
    "BMP colour, alpha": (samples.encoded(joined(RGB, ALPHA), "BMP"), RGB),
    "BMP palette": (saved(palette_image(), "BMP"), PALETTE[INDEXES]),
    "BMP grey": (samples.encoded(GREY, "BMP"), as_rgb(GREY)),
    "BMP 1 bit": (saved(Image.fromarray(GREY[..., 0] > 99), "BMP"), as_rgb((GREY > 99) * np.uint8(255))),
}


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def peak_and_error(call, *arguments) -> tuple[int, ImageError]:
    decoding.decode(samples.encoded(RGB), 3)
    tracemalloc.start()
    try:
        error = error_of(call, *arguments)
        return tracemalloc.get_traced_memory()[1], error
    finally:
        tracemalloc.stop()


BOMB = zlib.compress(bytes(50 * MEGABYTE))


def assert_pixels_or_image_error(give_record, input_shape, geometry) -> None:
    try:
        # A low limit, so that sizes which accidents make are quickly dealt with.
        with mock.patch.object(limits, "MAX_PIXELS", 1 << 16):
            made = decoding.pixels(give_record(), input_shape, geometry)
    except ImageError as error:
        assert error.reason in (
            "undecodable",
            "truncated",
            "too_complex",
            "too_many_pixels",
            "not_an_example",
            "no_image",
        )
        assert 0 < len(error.detail) < 400
    else:
        assert made.shape == input_shape
        assert made.dtype == np.float32
        assert made.min() >= 0
        assert made.max() <= 1
