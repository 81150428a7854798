"""The bank: the lowest digests of each class, whatever the order and grouping."""

import io

import numpy as np
import pytest

from odin_beam.transforms.fitting.bank import Bank

FIELDS = ("features", "energies", "labels", "digests", "keys")


def images(count=200, seed=0):
    """What `add` takes; many digests are equal, keys are not."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(count, 3)).astype(np.float32),
        rng.normal(size=count).astype(np.float32),
        rng.integers(0, 4, count),
        rng.integers(0, 20, count).astype(np.uint64) + np.uint64(2**63),
        rng.permutation(count).astype(np.uint64),
    )


def bank_of(arrays, rows=slice(None), size=22):
    bank = Bank(4, 3, size)
    bank.add(*(array[rows] for array in arrays))
    return bank


def assert_equal(a, b):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_it_holds_the_lowest_digests_of_each_class_ties_by_key():
    features, _, labels, digests, keys = arrays = images()
    bank = bank_of(arrays)
    # 22 // 4 = 5 a class; the remainder is unused.
    expected = []
    for c in range(4):
        rows = sorted(np.flatnonzero(labels == c), key=lambda row: (digests[row], keys[row]))
        expected += rows[:5]
    np.testing.assert_array_equal(bank.keys, keys[expected])
    np.testing.assert_array_equal(bank.features, features[expected])


@pytest.mark.parametrize("seed", range(5))
def test_neither_order_nor_grouping_matters(seed):
    arrays, rng = images(), np.random.default_rng(seed)
    groups = np.array_split(rng.permutation(200), rng.integers(1, 60, 6).cumsum())
    merged = bank_of(arrays, groups[0])
    for group in groups[1:4]:
        merged.add(*(array[group] for array in arrays))
    for group in groups[4:]:
        merged.merge(bank_of(arrays, group))
    assert_equal(merged, bank_of(arrays))


def test_a_class_with_few_images_gives_all_of_them_and_absent_ones_none():
    arrays = images(6)
    arrays[2][:] = [0, 0, 0, 0, 0, 2]
    np.testing.assert_array_equal(bank_of(arrays, size=16).labels, [0, 0, 0, 0, 2])


def test_fewer_rows_than_classes_leave_one_a_class():
    np.testing.assert_array_equal(bank_of(images(), size=2).labels, range(4))


def test_a_file_without_pickles_gives_it_again():
    bank, buffer = bank_of(images()), io.BytesIO()
    np.savez(buffer, **bank.to_arrays())
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as arrays:
        again = Bank.from_arrays(arrays)
    assert_equal(again, bank)
    again.merge(bank_of(images(seed=1)))
    assert again.quota == 5


@pytest.mark.parametrize(
    "change",
    [
        {"size": np.array([4])},
        {"size": np.array([4, 0])},
        {"labels": np.full(20, 4)},
        {"keys": np.zeros(3, np.uint64)},
        {"features": np.zeros((20, 3))},
        {"digests": None},
    ],
)
def test_arrays_that_do_not_fit_are_refused(change):
    arrays = {**bank_of(images()).to_arrays(), **change}
    with pytest.raises(ValueError, match="not a bank"):
        Bank.from_arrays({name: array for name, array in arrays.items() if array is not None})


def test_what_does_not_fit_is_not_added():
    features, *others = images()
    with pytest.raises(ValueError, match="cannot take"):
        Bank(4, 2, 10).add(features, *others)
    with pytest.raises(ValueError, match="labels"):
        Bank(3, 3, 10).add(features, *others)
    with pytest.raises(ValueError, match="cannot merge"):
        Bank(4, 3, 8).merge(Bank(4, 3, 80))
