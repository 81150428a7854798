"""Quantiles of features, against NumPy's."""

import io

import numpy as np
import pytest

from odin_beam.transforms.fitting.clip import FeatureHistogram

RNG = np.random.default_rng(0)
DATA = {
    "behind a ReLU": np.maximum(RNG.normal(size=(400, 500)), 0),
    "log-normal": RNG.lognormal(-3, 2, (400, 500)),
    "of both signs": RNG.normal(-1, 1, (400, 500)),
    "negative": -RNG.lognormal(0, 1, (400, 500)),
}


def histogram_of(*parts):
    histogram = FeatureHistogram()
    for part in parts:
        histogram.add(part)
    return histogram


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_quantile_is_within_1e_4_of_its_rank(data, share):
    data = data.astype(np.float32)
    got = histogram_of(data).quantile(share)
    low, high = (np.quantile(data, rank) for rank in (share - 1e-4, share + 1e-4))
    assert low <= got <= high


def test_neither_order_nor_grouping_matters():
    data = DATA["behind a ReLU"].astype(np.float32)
    merged = histogram_of(data[300:])
    merged.merge(histogram_of(data[:7], data[7:300]))
    assert merged.quantile(0.9) == histogram_of(data).quantile(0.9)
    assert (merged.count, merged.smallest) == (data.size, 0)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -7.3, 1e-42, 3.4e38])
def test_a_constant_is_its_quantile(value):
    value = np.float32(value)
    assert histogram_of(np.full((3, 5), value)).quantile(0.9) == value


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match="NaN or infinite"):
        histogram_of(np.float32([1, value]))


def test_without_features_there_is_no_quantile():
    with pytest.raises(ValueError, match="no features"):
        histogram_of(np.zeros((0, 3), np.float32)).quantile(0.9)


def test_a_file_without_pickles_gives_it_again():
    histogram, buffer = histogram_of(DATA["of both signs"]), io.BytesIO()
    np.savez(buffer, **histogram.to_arrays())
    buffer.seek(0)
    with np.load(buffer, allow_pickle=False) as arrays:
        again = FeatureHistogram.from_arrays(arrays)
    assert (again.quantile(0.3), again.count) == (histogram.quantile(0.3), histogram.count)


@pytest.mark.parametrize(
    "change",
    [{"keys": np.array([1 << 22])}, {"keys": np.array([-1])}, {"counts": np.array([0])}, {"counts": None}],
)
def test_arrays_that_do_not_fit_are_refused(change):
    arrays = {**histogram_of(np.float32([1])).to_arrays(), **change}
    with pytest.raises(ValueError, match="not a histogram"):
        FeatureHistogram.from_arrays({name: array for name, array in arrays.items() if array is not None})
