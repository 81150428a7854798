"""Foreign images made of known ones."""

import numpy as np
import pytest

from odin_beam.transforms.images.geometry import Geometry
from odin_beam.transforms.shards.contents.content import default_id
from odin_beam.transforms.shards.contents.surrogates import Surrogate, altered
from odin_beam.transforms.shards.contents.tfrecords import TFRecords
from odin_beam.transforms.shards.shard import FeatureNames
from tests.helpers import samples

PIXELS = samples.random_images(1, (9, 8, 3))[0].astype(np.float32) / 255


def surrogate_pixels(path, kind):
    """Every record of a shard as surrogate pixels, None for a bad one."""
    shard = samples.shard(path)
    shard = shard.__class__(**{**shard.__dict__, "content": Surrogate(kind, TFRecords())})
    names, made = FeatureNames(), []
    for record in shard.content.read(shard, "", None):
        if record.problem:
            made.append((record.index, None))
            continue
        parsed = shard.content.parse(record, names)
        assert parsed.label is None
        assert default_id(record, shard) == f"x.tfrecord__{record.index}"
        pixels = shard.content.pixels(record, parsed, shard, (8, 8, 3), Geometry(), names)
        made.append((record.index, pixels))
    return made


def test_shuffled_patches_are_the_same_patches_elsewhere_and_the_rest_stays():
    made = altered("patches", PIXELS, "a", 0)

    def patches(image):
        return {image[y : y + 2, x : x + 2].tobytes() for y in range(0, 8, 2) for x in range(0, 8, 2)}

    assert patches(made) == patches(PIXELS)
    assert np.any(made != PIXELS)
    np.testing.assert_array_equal(made[8], PIXELS[8])


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 1), (4, 4, 3)])
def test_tiny_images_have_fewer_patches(shape):
    pixels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 100
    made = altered("patches", pixels, "a", 0)
    assert sorted(made.ravel()) == sorted(pixels.ravel())


def test_an_average_is_the_mean_of_two_images():
    np.testing.assert_allclose(altered("averages", PIXELS, "a", 0, 1 - PIXELS), 0.5, atol=1e-6)


def test_halves_are_the_left_of_one_image_and_the_right_of_the_other():
    made = altered("halves", PIXELS, "a", 0, 1 - PIXELS)
    np.testing.assert_array_equal(made[:, :4], 1 - PIXELS[:, :4])
    np.testing.assert_array_equal(made[:, 4:], PIXELS[:, 4:])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("patches", "/a.png"), ("leave_class_out", "/a.png"), ("averages", None), ("halves", None)],
)
def test_only_a_surrogate_of_one_image_has_its_uri(tmp_path, kind, expected):
    payload = samples.example(image=b"x", **{"image/uri": "/a.png"})
    shard = samples.shard(samples.write_shard(tmp_path / "x.tfrecord", [payload]))
    content = Surrogate(kind, TFRecords())
    (record,) = shard.content.read(shard, "", None)
    assert content.uri(shard, record, content.parse(record, FeatureNames())) == expected


def test_patches_are_the_same_again_and_others_for_another_image_or_shard():
    first = altered("patches", PIXELS, "a", 0)
    np.testing.assert_array_equal(altered("patches", PIXELS, "a", 0), first)
    assert np.any(altered("patches", PIXELS, "a", 1) != first)
    assert np.any(altered("patches", PIXELS, "b", 0) != first)


@pytest.mark.parametrize("kind", ["patches", "leave_class_out"])
def test_every_image_of_a_shard_has_its_surrogate(tmp_path, kind):
    images = samples.random_images(5)
    path = samples.write_shard(tmp_path / "x.tfrecord", samples.examples(images, [1, 2, 3, 0, 1]))
    made = surrogate_pixels(path, kind)
    assert [index for index, _ in made] == list(range(5))
    floats = images.astype(np.float32) / np.float32(255)
    for (_, pixels), image in zip(made, floats, strict=True):
        assert np.array_equal(pixels, image) == (kind == "leave_class_out")


@pytest.mark.parametrize("kind", ["averages", "halves"])
def test_pairs_give_one_image_each(tmp_path, kind):
    images = samples.random_images(40)
    path = samples.write_shard(tmp_path / "x.tfrecord", samples.examples(images, [0, 1] * 20))
    made = surrogate_pixels(path, kind)
    indexes = [index for index, _ in made]
    assert indexes == sorted(indexes)
    # Of each half, one image at most has no partner, unless all that wait are of one class.
    assert 10 <= len(made) <= 20
    floats = images.astype(np.float32) / np.float32(255)
    for _, pixels in made:
        if kind == "averages":
            assert any(np.array_equal(pixels, (a + b) / 2) for a in floats for b in floats if a is not b)
        else:
            assert any(np.array_equal(pixels[:, 4:], image[:, 4:]) for image in floats)
            assert not any(np.array_equal(pixels, image) for image in floats)
