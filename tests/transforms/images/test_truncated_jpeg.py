"""A JPEG that ends before its image does is refused on every path; one that lacks only its end marker is not."""

import numpy as np
import pytest
from PIL import Image

from odin_beam.transforms.errors import ImageError
from odin_beam.transforms.images import decoding
from odin_beam.transforms.images.geometry import Geometry
from odin_beam.transforms.images.jpeg_batches import decode_jpegs
from tests.helpers import samples
from tests.helpers.image_files import error_of, saved

PHOTO = Image.fromarray(samples.random_images(1, (9, 12, 3), seed=3)[0]).resize((180, 130))
KINDS = {
    "baseline": saved(PHOTO, "JPEG", quality=85),
    "not subsampled": saved(PHOTO, "JPEG", subsampling=0),
    "restarts": saved(PHOTO, "JPEG", restart_marker_rows=1),
    "grey": saved(PHOTO.convert("L"), "JPEG"),
    "CMYK": saved(PHOTO.convert("CMYK"), "JPEG"),
    "progressive": saved(PHOTO, "JPEG", progressive=True),
    "progressive grey": saved(PHOTO.convert("L"), "JPEG", progressive=True),
}
END = b"\xff\xd9"


def cut(data: bytes, share: float) -> bytes:
    """The file up to a share of what follows the header of its first scan."""
    start = data.index(b"\xff\xda")
    start += 2 + int.from_bytes(data[start + 2 : start + 4])
    return data[: start + int(share * (len(data) - start))]


def assert_truncated(data: bytes) -> None:
    for channels in (1, 3):
        assert error_of(decoding.decode, data, channels).reason == "truncated"
        out = np.empty((1, 8, 8, channels), np.float32)
        assert decode_jpegs([data], Geometry(), out) == [False]


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
def test_a_file_cut_in_its_data_is_truncated(data, share):
    assert_truncated(cut(data, share))


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "progressive" not in kind])
def test_a_file_cut_and_ended_is_truncated(kind, share):
    assert_truncated(cut(KINDS[kind], share) + END)


@pytest.mark.parametrize("kind", ["progressive", "progressive grey"])
def test_a_progressive_file_cut_before_its_last_scan_and_ended_is_truncated(kind):
    data = KINDS[kind]
    for size in (data.rindex(b"\xff\xda"), len(cut(data, 0.1)), len(cut(data, 0))):
        assert_truncated(data[:size] + END)
        assert error_of(decoding.check_header, data[:size] + END).reason == "truncated"


def test_a_file_whose_second_half_is_zero_is_truncated():
    data = KINDS["baseline"]
    zeroed = cut(data, 0.5).ljust(len(data) - 2, b"\0")
    assert_truncated(zeroed)
    assert_truncated(zeroed + END)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_lacks_only_its_end_marker_is_whole(kind):
    data = KINDS[kind]
    for channels in (1, 3):
        np.testing.assert_array_equal(decoding.decode(data[:-2], channels), decoding.decode(data, channels))
        np.testing.assert_array_equal(decoding.decode(data[:-1], channels), decoding.decode(data, channels))
    decoding.check_header(data[:-2])


@pytest.mark.parametrize("behind", [bytes(50), b"\xff", b"junk", KINDS["grey"]], ids=["zeros", "ff", "junk", "JPEG"])
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_behind_the_end_are_ignored(kind, behind):
    data = KINDS[kind]
    np.testing.assert_array_equal(decoding.decode(data + behind, 3), decoding.decode(data, 3))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_whole_image_that_ends_in_grey_is_whole(mode, options):
    image = PHOTO.copy()
    image.paste((128, 128, 128), (60, 60, 180, 130))
    data = saved(image.convert(mode), "JPEG", quality=95, **options)
    for channels in (1, 3):
        assert decoding.decode(data, channels).shape == (130, 180, channels)


def test_the_header_check_refuses_a_file_without_the_end_of_its_data():
    for share in (0.1, 0.9):
        assert error_of(decoding.check_header, cut(KINDS["baseline"], share)).reason == "truncated"


def test_every_cut_of_a_small_file_is_refused_or_has_all_blocks():
    data = saved(PHOTO.crop((0, 0, 40, 24)), "JPEG", subsampling=0)
    whole = decoding.decode(data, 3)
    for size in range(len(data)):
        try:
            decoded = decoding.decode(data[:size], 3)
        except ImageError:
            continue
        np.testing.assert_array_equal(decoded, whole)


def test_the_decoders_corrupt_jpeg_data_on_stderr_does_not_decide(capfd):
    whole = KINDS["baseline"]
    with_bytes_behind = whole[:-2] + b"\x12\x34\x56" + END
    np.testing.assert_array_equal(decoding.decode(with_bytes_behind, 3), decoding.decode(whole, 3))
    assert "Corrupt JPEG data: 2 extraneous bytes before marker 0xd9" in capfd.readouterr().err
    assert error_of(decoding.decode, cut(whole, 0.5) + END, 3).reason == "truncated"
    assert "Corrupt JPEG data: premature end of data segment" in capfd.readouterr().err
