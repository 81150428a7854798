"""The short way for plain PNG, against the way of all the others."""

import struct
import zlib
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from odin_beam.transforms.errors import ImageError
from odin_beam.transforms.images import decoding
from odin_beam.transforms.images import png as plain_pngs
from tests.helpers import samples
from tests.helpers.image_files import ALPHA, BOMB, GREY, PALETTE, RGB, chunk, joined, patched, png, png_of


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
