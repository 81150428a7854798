"""What bytes are that are not an image of a supported format."""

import base64
import gzip
import io
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from odin_beam.transforms.images.recognition import described, other_pixels, recognised
from tests.helpers import samples
from tests.helpers.image_files import RGB


def tensor(values) -> bytes:
    return tf.io.serialize_tensor(tf.constant(values)).numpy()


CERTAIN = {
    "a PNG image": samples.encoded(RGB),
    "a WebP image": samples.encoded(RGB, "WEBP"),
    "a TIFF image": samples.encoded(RGB, "TIFF"),
    "an HTML page": b"\n <HTML lang=en><head>",
    "an SVG drawing": b'<?xml version="1.0"?>\n<!-- made --><svg xmlns="http://www.w3.org/2000/svg"/>',
    "a Git LFS pointer (fetch the files: `git lfs pull`)": b"version https://git-lfs.github.com/spec/v1\n",
    "gzip": gzip.compress(b"x" * 1000),
    "zlib": zlib.compress(bytes(range(256)) * 40),
    "a HEIC image": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "an AVIF image": b"\0\0\0\x20ftypavif\0\0\0\0avifmif1",
    "an MP4 video": b"\0\0\0\x18ftypmp42\0\0\0\0",
    "a JPEG 2000 image": b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x14ftypjp2 ",
    "base64 text of a PNG image (decode it first)": base64.encodebytes(samples.encoded(RGB)),
    "base64 text of a JPEG image (decode it first)": b"data:image/jpeg;base64,"
    + base64.b64encode(samples.encoded(RGB, "JPEG")),
    "a serialized tensor, float32 of 28 x 28 x 1 (store encoded images instead)": tensor(np.zeros((28, 28, 1), "f4")),
    "a serialized tensor, uint8 of 300 x 2 (store encoded images instead)": tensor(np.zeros((300, 2), "u1")),
    "a serialized tensor, string of no dimensions (store encoded images instead)": tensor("text"),
}


@pytest.mark.parametrize(("words", "data"), CERTAIN.items(), ids=CERTAIN)
def test_files_of_other_kinds_are_recognised(words, data):
    assert recognised(data) == described(data) == words


@pytest.mark.parametrize(
    "image_format", [name for name in ("AVIF", "JPEG2000") if name != "AVIF" or features.check("avif")]
)
def test_images_that_pillow_writes_are_recognised(image_format):
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, image_format)
    assert recognised(buffer.getvalue()) == {"AVIF": "an AVIF image", "JPEG2000": "a JPEG 2000 image"}[image_format]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file"),
        (b"Not found\n", "plain text"),
        ("Ünïcode ".encode() * 200, "plain text"),
        (b'{"error": 404}', "JSON"),
        (b"[1, 2, 3]", "JSON"),
        (b"<?xml version='1.0'?><a/>", "XML"),
        (bytes(100), None),
        (b"\xff\xfe" * 50, None),
        (np.random.default_rng(0).bytes(1000), None),
    ],
)
def test_text_is_described_but_not_beyond_doubt(data, words):
    assert recognised(data) is None
    assert described(data) == words


@samples.fuzzed(500)
@given(st.one_of(st.binary(max_size=600), st.sampled_from(list(CERTAIN.values())).flatmap(samples.damaged)))
def test_any_bytes_are_something_or_nothing(data):
    assert described(data) is None or described(data).isprintable()


def test_examples_are_nothing_else():
    for image in samples.random_images(20):
        payload = samples.example(image=samples.encoded(image), label=3)
        assert described(payload) is None


def test_pixels_of_another_type_are_known_by_their_number():
    assert other_pixels(5 * 7 * 3, (5, 7, 3)) is None
    assert other_pixels(5 * 7 * 3 * 4, (5, 7, 3)).startswith("float32 or int32 pixels of 5 x 7 x 3")
    assert other_pixels(0, (0, 7, 3)) is None
