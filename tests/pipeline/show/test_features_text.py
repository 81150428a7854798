"""The line that says how much storage features take."""

import pytest

from odin_beam.pipeline.show.features_text import features_text


@pytest.mark.parametrize(
    ("images", "width", "dtype", "text"),
    [
        (10**6, 2048, "float32", "features: about 8.2 GB for 1,000,000 images (2,048 float32 each)"),
        (10**8, 2048, "float32", "features: about 819 GB for 100,000,000 images (2,048 float32 each)"),
        (10**8, 2048, "float16", "features: about 410 GB for 100,000,000 images (2,048 float16 each)"),
        (10**9, 2048, "float32", "features: about 8.2 TB for 1,000,000,000 images (2,048 float32 each)"),
        (3000, 512, "float32", "features: about 6.1 MB for 3,000 images (512 float32 each)"),
        (1, 6, "float16", "features: about 0.0 kB for 1 image (6 float16 each)"),
    ],
)
def test_storage_is_said_in_units_that_people_read(images, width, dtype, text):
    assert features_text(images, width, dtype) == text
