"""Foreign images made of known ones."""

import numpy as np
import pytest

from odin_beam.transforms.images.geometry import Geometry
from odin_beam.transforms.shards.contents.content import default_id
from odin_beam.transforms.shards.contents.surrogates import SURROGATE_TYPES, Surrogate, altered, with_partners
from odin_beam.transforms.shards.contents.tfrecords import TFRecords
from odin_beam.transforms.shards.records import Record
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


def test_pixel_noise_has_its_size_and_stays_in_range():
    grey = np.full((100, 100, 3), 0.5, np.float32)
    made = altered("noise", grey, "a", 0)
    # Clipped at 2.5 standard deviations, which takes a little off.
    assert np.std(made) == pytest.approx(0.197, abs=0.005)
    assert made.dtype == np.float32
    assert (made.min(), made.max()) == (0, 1)


def test_an_average_is_the_mean_of_two_images():
    np.testing.assert_allclose(altered("averages", PIXELS, "a", 0, 1 - PIXELS), 0.5, atol=1e-6)


@pytest.mark.parametrize("kind", ["patches", "noise"])
def test_what_is_random_is_the_same_again_and_another_for_another_image_or_shard(kind):
    first = altered(kind, PIXELS, "a", 0)
    np.testing.assert_array_equal(altered(kind, PIXELS, "a", 0), first)
    assert np.any(altered(kind, PIXELS, "a", 1) != first)
    assert np.any(altered(kind, PIXELS, "b", 0) != first)


def test_partners_are_the_next_good_records_and_bad_ones_pass():
    good = [Record(i, None, bytes([i])) for i in range(4)]
    bad = Record(2, None, None, ("bad_payload_checksum", ""))
    paired = list(with_partners([good[0], good[1], bad, good[3]]))
    assert sorted((r.index, r.partner and r.partner.index) for r in paired) == [(0, 1), (1, 3), (2, None), (3, 1)]
    assert list(with_partners([])) == []
    (alone,) = with_partners([good[0]])
    assert alone.problem[0] == "no_partner"


@pytest.mark.parametrize("kind", SURROGATE_TYPES)
def test_every_image_of_a_shard_has_its_surrogate(tmp_path, kind):
    images = samples.random_images(5)
    path = samples.write_shard(tmp_path / "x.tfrecord", samples.examples(images, [1, 2, 3, 0, 1]))
    made = surrogate_pixels(path, kind)
    assert [index for index, _ in made] == list(range(5))
    floats = images.astype(np.float32) / np.float32(255)
    if kind == "averages":
        partners = floats[[1, 2, 3, 4, 3]]
        np.testing.assert_array_equal(np.stack([pixels for _, pixels in made]), (floats + partners) / 2)
    for (_, pixels), image in zip(made, floats, strict=True):
        assert np.any(pixels != image)
