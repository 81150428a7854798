"""Files whose structure makes them expensive are refused before a decoder sees them; large metadata pass."""

import contextlib
import functools
import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from odin_beam.transforms import limits
from odin_beam.transforms.errors import ImageError
from odin_beam.transforms.images import decoding
from odin_beam.transforms.images.structure import check_structure
from tests.helpers import samples
from tests.helpers.image_files import MEGABYTE, RGB, chunk, error_of, palette_image, peak_and_error, png, saved

JPEG = samples.encoded(RGB, "JPEG")
PROGRESSIVE = samples.encoded(RGB, "JPEG", progressive=True)
GIF = samples.encoded(RGB, "GIF")
GIF_FRAME = GIF.index(b",\0\0\0\0")


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def jpeg_with(segments: bytes) -> bytes:
    return JPEG[:2] + segments + JPEG[2:]


def gif_with(blocks: bytes) -> bytes:
    return GIF[:GIF_FRAME] + blocks + GIF[GIF_FRAME:]


def gif_comment(size: int, piece: int = 255) -> bytes:
    return b"!\xfe" + (bytes([piece]) + b"a" * piece) * (size // piece) + b"\0"


def bmp(width: int, height: int, compression: int, bits: int, coded: bytes) -> bytes:
    start = 14 + 40 + 4 * 256
    header = struct.pack("<iiHHIIiiII", width, height, 1, bits, compression, len(coded), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IIII", start + len(coded), 0, start, 40) + header + b"\1\2\3\0" * 256 + coded


def last_scan_repeated(times: int) -> bytes:
    last = PROGRESSIVE.rindex(b"\xff\xda")
    return PROGRESSIVE[:-2] + PROGRESSIVE[last:-2] * times + PROGRESSIVE[-2:]


def one_component_scans(times: int) -> bytes:
    """A file that is not progressive, and has a scan of the first component again and again."""
    start = JPEG.index(b"\xff\xda")
    scan = segment(0xDA, b"\1" + JPEG[start + 5 : start + 7] + b"\0\x3f\0") + b"\x55"
    return JPEG[:start] + scan * times + JPEG[-2:]


HOSTILE = {
    "progressive JPEG of many scans": (last_scan_repeated(limits.MAX_JPEG_SCANS), "more than 100 scans"),
    "JPEG of many scans": (one_component_scans(limits.MAX_JPEG_SCANS + 1), "more than 100 scans"),
    "JPEG of many segments": (jpeg_with(segment(0xFE, b"") * 4096), "more than 4096 segments"),
    "JPEG of many bare markers": (jpeg_with(b"\xff\x01" * 4097), "more than 4096 segments"),
    "JPEG of much EXIF": (jpeg_with(segment(0xE1, b"Exif\0\0") * 65), "more than 64 segments of EXIF"),
    "GIF of long comments": (gif_with(gif_comment(1 << 17)), "bytes of comments"),
    "GIF of comments in tiny pieces": (gif_with(gif_comment(1 << 17, piece=1)), "in a GIF|image of a GIF"),
    "GIF of many extensions": (gif_with(b"!\x01\x01a\0" * 60_000), "blocks before the image"),
    "GIF of many stray bytes": (gif_with(b"x" * 100_001), "blocks before the image"),
    "GIF of many comments behind an empty extension": (
        gif_with(b"!\x01\0\x03abc\0" + gif_comment(1 << 17)),
        "bytes of comments",
    ),
    "PNG of many chunks": (png(7, 5, 8, 2, b"", chunk(b"tEXt", b"a\0b") * 65_537), "more than 65536 chunks"),
    "PNG of many compressed texts": (png(7, 5, 8, 2, b"", chunk(b"zTXt", b"") * 129), "more than 128 compressed"),
    "BMP of long coded rows": (bmp(16_000_000, 1, 1, 8, b"\0\2\0\xff" * 65_000), "16000000 pixels a row"),
}


@pytest.mark.parametrize(("data", "detail"), HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize(
    "look", [functools.partial(decoding.decode, channels=3), decoding.check_header], ids=["decode", "header"]
)
def test_an_expensive_structure_is_too_complex(data, detail, look):
    error = error_of(look, data)
    assert error.reason == "too_complex"
    assert any(part in error.detail for part in detail.split("|"))


SHORT = {
    "uncompressed": bmp(9_400, 9_400, 0, 8, b"x" * 4_000),
    "24 bits": bmp(900, -900, 0, 24, b"x" * 4_000),
    "run-length coded": bmp(9_400, 9_400, 1, 8, b"\0\2\0\xff" * 1_000),
}


@pytest.mark.parametrize("data", SHORT.values(), ids=SHORT)
def test_a_bmp_without_its_pixels_is_truncated_before_any_are_allocated(data):
    peak, error = peak_and_error(decoding.decode, data, 3)
    assert error.reason == "truncated"
    assert peak < MEGABYTE
    assert error_of(decoding.check_header, data).reason == "truncated"


def with_profile(image_format: str) -> bytes:
    profile = np.random.default_rng(0).bytes(600_000)
    return saved(Image.fromarray(RGB), image_format, icc_profile=profile)


def with_texts() -> bytes:
    texts = PngImagePlugin.PngInfo()
    for i in range(60):
        texts.add_text(f"k{i}", "value" * 100, zip=True)
    return saved(Image.fromarray(RGB), "PNG", pnginfo=texts)


def animated() -> bytes:
    frames = [Image.fromarray(frame) for frame in samples.random_images(40, (5, 7, 3))]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:], comment=b"c" * 5_000, loop=0)


def coded_bmp() -> bytes:
    rows = b"".join(b"\7" + bytes([i]) + b"\0\0" for i in range(5)) + b"\0\1"
    return bmp(7, 5, 1, 8, rows)


LARGE = {
    "JPEG, 5 MB of EXIF": jpeg_with(segment(0xE1, b"Exif\0\0" + bytes(60_000)) * 60),
    "JPEG, 30 MB of XMP": jpeg_with(segment(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(60_000)) * 500),
    "JPEG, profile": with_profile("JPEG"),
    "JPEG, filling": jpeg_with(b"\xff" * 99),
    "PNG, profile": with_profile("PNG"),
    "PNG, texts": with_texts(),
    "PNG, tiny pieces": png(7, 5, 8, 2, b"".join(b"\0" + row.tobytes() for row in RGB), chunk(b"tEXt", b"a\0b") * 900),
    "GIF, frames and a comment": animated(),
    "GIF, 2 MB of XMP": gif_with(b"!\xff\x0bXMP DataXMP" + (b"\xff" + bytes(255)) * 8_000 + b"\0"),
    "BMP, run-length coded": coded_bmp(),
    "BMP, palette": saved(palette_image(), "BMP"),
}


@pytest.mark.parametrize("data", LARGE.values(), ids=LARGE)
def test_large_metadata_pass(data):
    decoding.check_header(data)
    assert decoding.decode(data, 3).shape[2] == 3


@samples.fuzzed(300)
@given(st.sampled_from([GIF, JPEG, PROGRESSIVE, animated(), coded_bmp(), with_texts()]).flatmap(samples.damaged))
def test_the_walk_itself_stands_any_damage(data):
    with contextlib.suppress(ImageError):
        check_structure(data)


def test_what_passes_is_no_other_image():
    np.testing.assert_array_equal(
        decoding.decode(animated(), 3), np.asarray(Image.open(io.BytesIO(animated())).convert("RGB"))
    )
