"""What a PATTERN means."""

import pytest
import samples

from pipeline import sources
from pipeline.options import SourcePattern, UsageError, source_pattern


@pytest.mark.parametrize(
    ("text", "name", "pattern"),
    [
        ("cifar10=/d/c-*", "cifar10", "/d/c-*"),
        ("a.b-c_1=gs://b/x", "a.b-c_1", "gs://b/x"),
        ("gs://b/date=2024-01-01/*", "input", "gs://b/date=2024-01-01/*"),
        ("/d/k=v/*", "input", "/d/k=v/*"),
        ("n=gs://b/date=2024-01-01/*", "n", "gs://b/date=2024-01-01/*"),
        ("/plain", "input", "/plain"),
    ],
)
def test_a_name_is_what_stands_before_the_first_equals_sign_if_it_can_be_one(text, name, pattern):
    assert source_pattern(text, "input") == SourcePattern(name, "input", pattern)


def test_relative_patterns_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert source_pattern("x=a/*.tfrecord", "input").pattern == f"{tmp_path}/a/*.tfrecord"


def test_listings_are_sorted_and_free_of_duplicates_within_a_source(tmp_path):
    for name in ("b", "a", "c"):
        samples.write_shard(tmp_path / f"{name}.tfrecord", [])
    patterns = [
        SourcePattern("two", "input", f"{tmp_path}/[bc].tfrecord"),
        SourcePattern("one", "input", f"{tmp_path}/c.tfrecord"),
        SourcePattern("two", "input", f"{tmp_path}/*.tfrecord"),
    ]
    listed = [(shard.source, shard.path[-10:]) for shard in sources.list_shards(patterns)]
    assert listed == [("two", "a.tfrecord"), ("two", "b.tfrecord"), ("two", "c.tfrecord"), ("one", "c.tfrecord")]


def test_a_pattern_without_match_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"--in_distribution .*none-\* matches no file"):
        sources.list_shards([SourcePattern("x", "in_distribution", f"{tmp_path}/none-*")])
