"""Counts with their nouns."""

import pytest

from odin_beam.pipeline.show.plural import plural


@pytest.mark.parametrize(
    ("count", "noun", "text"),
    [(0, "record", "0 records"), (1, "shard", "1 shard"), (2, "shard", "2 shards"), (1234, "image", "1,234 images")],
)
def test_one_is_singular(count, noun, text):
    assert plural(count, noun) == text
