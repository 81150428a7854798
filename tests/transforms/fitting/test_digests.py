"""Which images a fit takes: those of the lowest digests, exactly, however they come."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_beam.transforms.fitting import digests as digests_module
from odin_beam.transforms.fitting.digests import LowestDigests, is_within, row_keys
from tests.helpers import samples

pairs = st.lists(st.tuples(st.integers(0, 9), st.integers(0, (1 << 64) - 1)), max_size=40, unique=True)


def added(most, rows, cuts=()):
    lowest = LowestDigests(most)
    array = np.array(rows, np.uint64).reshape(-1, 2)
    for part in np.split(array, sorted(cuts)):
        lowest.add(part[:, 0], part[:, 1])
    return lowest


@samples.fuzzed(100)
@given(pairs, st.integers(1, 45), st.lists(st.integers(0, 40), max_size=4))
def test_the_limit_takes_just_the_lowest_whatever_the_parts(rows, most, cuts):
    lowest = added(most, rows, cuts)
    array = np.array(rows, np.uint64).reshape(-1, 2)
    taken = is_within(array[:, 0], array[:, 1], lowest.limit())
    assert sorted(map(tuple, array[taken].tolist())) == sorted(rows)[:most]
    assert list(zip(*(column.tolist() for column in lowest.lowest()), strict=True)) == sorted(rows)[:most]


@samples.fuzzed(100)
@given(pairs, pairs, st.integers(1, 30))
def test_merged_lowest_are_the_lowest_of_all(rows, others, most):
    rows, others = list(set(rows)), list(set(others) - set(rows))
    merged = LowestDigests(most)
    for part in (added(most, rows), added(most, others)):
        merged.add(*part.lowest(), part.count)
    whole = added(most, rows + others)
    assert merged.limit() == whole.limit()
    np.testing.assert_array_equal(merged.lowest(), whole.lowest())


def test_all_are_taken_where_there_are_no_more(monkeypatch):
    monkeypatch.setattr(digests_module, "_PENDING", 2)
    rows = [(i, i) for i in range(5)]
    assert added(5, rows, [1, 3]).limit() is None
    assert added(4, rows, [1, 3]).limit() == (3, 3)


def test_digests_above_the_signed_range_are_the_highest():
    negative = np.array([-1, 5], np.int64).view(np.uint64)
    lowest = LowestDigests(1)
    lowest.add(negative, np.zeros(2, np.uint64))
    assert lowest.limit() == (5, 0)


@pytest.mark.parametrize("other", ["b", "a/"])
def test_keys_tell_rows_and_shards_apart(other):
    keys = np.concatenate([row_keys(shard, np.arange(1000)) for shard in ("a", other)])
    assert keys.dtype == np.uint64
    assert len(np.unique(keys)) == 2000
    np.testing.assert_array_equal(row_keys("a", np.arange(5, 9)), keys[5:9])
