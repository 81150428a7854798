"""JPEG several at once: the same pixels, to the bit, as one after the other."""

import io
import itertools
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from odin_beam.transforms import limits
from odin_beam.transforms.errors import ImageError
from odin_beam.transforms.images import decoding, jpeg_batches
from odin_beam.transforms.images.example import ImageRecord
from odin_beam.transforms.images.geometry import CROP_MODES, INTERPOLATIONS, JPEG_METHODS, RESIZE_MODES, Geometry
from odin_beam.transforms.scoring.batches import decode_batch
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.records import Record
from odin_beam.transforms.shards.shard import FeatureNames
from tests.helpers import samples

SIZES = [(16, 24), (9, 40), (40, 9), (33, 48), (16, 25), (60, 61)]
COLOUR = [
    samples.encoded(samples.random_images(1, (*size, 3))[0], "JPEG", quality=80, progressive=bool(i % 2))
    for i, size in enumerate(SIZES)
]
GREY = [samples.encoded(samples.random_images(1, (*size, 1))[0], "JPEG") for size in SIZES[:2]]
PNG = samples.encoded(samples.random_images(1, (16, 24, 3))[0])
with io.BytesIO() as _buffer:
    Image.new("CMYK", (24, 16), (10, 200, 30, 40)).save(_buffer, "JPEG")
    CMYK = _buffer.getvalue()


def one_by_one(data: bytes, input_shape: tuple[int, int, int], geometry: Geometry) -> np.ndarray | None:
    try:
        return decoding.pixels(ImageRecord(data, None, None, None), input_shape, geometry)
    except ImageError:
        return None


def at_once(encoded: list[bytes], input_shape: tuple[int, int, int], geometry: Geometry) -> list[np.ndarray | None]:
    out = np.full((len(encoded), *input_shape), np.nan, np.float32)
    there = jpeg_batches.decode_jpegs(encoded, geometry, out)
    for image, decoded in zip(out, there, strict=True):
        assert decoded or np.isnan(image).all()
    return [image if decoded else None for image, decoded in zip(out, there, strict=True)]


@pytest.mark.parametrize("jpeg", JPEG_METHODS)
@pytest.mark.parametrize("antialias", [False, True], ids=["sampling", "antialias"])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_every_geometry_gives_the_pixels_of_one_by_one(interpolation, antialias, jpeg):
    for resize, crop in itertools.product(RESIZE_MODES, CROP_MODES):
        if (resize, crop) == ("shorter_side", "none"):
            continue
        geometry = Geometry(None, resize, crop, interpolation, antialias, jpeg)
        made = at_once(COLOUR, (16, 24, 3), geometry)
        fitting = {"stretch": 6, "shorter_side": 6, "none": 1 if crop == "none" else 4}[resize]
        assert sum(image is not None for image in made) == fitting
        for data, image in zip(COLOUR, made, strict=True):
            expected = one_by_one(data, (16, 24, 3), geometry)
            assert (image is None) == (expected is None)
            if image is not None:
                np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize(("channels", "taken"), [(3, [0, 2]), (1, [3])])
def test_jpeg_of_the_classifiers_channels_is_taken_from_among_others(channels, taken):
    encoded = [COLOUR[1], PNG, COLOUR[2], GREY[1], CMYK, b"", b"\xff\xd9"]
    made = at_once(encoded, (16, 24, channels), Geometry())
    assert [i for i, image in enumerate(made) if image is not None] == taken
    for i in taken:
        np.testing.assert_array_equal(made[i], one_by_one(encoded[i], (16, 24, channels), Geometry()))


@pytest.mark.parametrize("encoded", [[], [b""], [PNG, PNG], GREY], ids=["none", "empty", "PNG", "grey"])
def test_where_nothing_is_jpeg_in_colour_nothing_is_taken(encoded):
    assert at_once(encoded, (16, 24, 3), Geometry()) == [None] * len(encoded)


def test_an_image_beyond_the_limit_is_not_decoded_and_the_others_are():
    with mock.patch.object(limits, "MAX_PIXELS", 60 * 61 - 1):
        made = at_once(COLOUR, (16, 24, 3), Geometry())
    assert [image is not None for image in made] == [True] * 5 + [False]


@pytest.mark.parametrize("damaged", [COLOUR[1][:9], b"\xff\xd8\xff"], ids=["header", "start"])
def test_a_damaged_image_leaves_the_others_to_be_taken_one_by_one(damaged):
    assert at_once([*COLOUR, damaged], (16, 24, 3), Geometry()) == [None] * 7


@pytest.mark.parametrize("end", [b"", b"\xff\xd9"], ids=["no end marker", "end marker"])
def test_a_cut_image_is_left_out_of_the_batch(end):
    cut = COLOUR[1][: len(COLOUR[1]) * 2 // 3] + end
    *others, left_out = at_once([*COLOUR, cut], (16, 24, 3), Geometry())
    assert left_out is None
    assert all(image is not None for image in others)


def test_large_images_are_fewer_at_once():
    assert jpeg_batches.jpegs_at_once((32, 32, 3)) == jpeg_batches.jpegs_at_once((224, 224, 3)) == 64
    assert jpeg_batches.jpegs_at_once((1000, 1000, 3)) == 5
    assert jpeg_batches.jpegs_at_once((9000, 9000, 3)) == 1


def decoded_batch(tmp_path, encoded: list[bytes], in_batches_of: int) -> tuple[np.ndarray, list, list]:
    """Pixels, rows and rejects of images that go through `decode_batch` so many at a time."""
    shard = samples.shard(samples.write_shard(tmp_path / "x.tfrecord", []))
    batch = [Record(i, i, samples.example(image=data, label=i)) for i, data in enumerate(encoded)]
    pixels, rows, rejects = [], [], []
    for start in range(0, len(batch), in_batches_of):
        some = batch[start : start + in_batches_of]
        buffer = np.full((in_batches_of, 16, 24, 3), np.nan, np.float32)
        decoded = decode_batch(some, shard, ScoreSettings("", "", features=FeatureNames()), (16, 24, 3), buffer)
        assert len(decoded.pixels) == len(decoded.rows)
        pixels, rows, rejects = [*pixels, decoded.pixels], rows + decoded.rows, rejects + decoded.rejects
    return np.concatenate(pixels), rows, rejects


def test_a_batch_of_several_times_as_many_with_some_damaged_loses_nothing(tmp_path):
    encoded = (COLOUR * 30)[:150]
    encoded[70], encoded[149], encoded[3] = COLOUR[0][:-100], b"", PNG
    pixels, rows, rejects = decoded_batch(tmp_path, encoded, 150)
    assert [row["index"] for row in rows] == [i for i in range(150) if i not in (70, 149)]
    assert [reject["index"] for reject in rejects] == [70, 149]
    for image, row in zip(pixels, rows, strict=True):
        np.testing.assert_array_equal(image, one_by_one(encoded[row["index"]], (16, 24, 3), Geometry()))


@pytest.mark.filterwarnings("ignore::UserWarning")
@samples.fuzzed(200)
@given(
    damaged=st.lists(st.sampled_from([*COLOUR, GREY[0], CMYK, PNG]).flatmap(samples.damaged), min_size=1, max_size=3)
)
def test_damaged_images_end_alike_in_whatever_company(tmp_path_factory, damaged):
    folder, encoded = tmp_path_factory.mktemp("fuzz"), [COLOUR[1], *damaged, COLOUR[2]]
    # A low limit, so that sizes which accidents make are quickly dealt with.
    with mock.patch.object(limits, "MAX_PIXELS", 1 << 16):
        together, alone = (decoded_batch(folder, encoded, size) for size in (len(encoded), 1))
    np.testing.assert_array_equal(together[0], alone[0])
    assert together[1:] == alone[1:]
