import pickle
import random
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odin_beam.transforms.metrics.score_histogram import MAX_KEYS, ScoreHistogram, common_bins

LARGEST = np.finfo(np.float64).max
FINITE = st.floats(allow_nan=False, allow_infinity=False)
# Probabilities near 1 as often as all the others.
SCORES = st.lists(FINITE | st.floats(-1, 1) | st.floats(0, 0.5).map(lambda gap: 1 - gap**9), max_size=60)


def key_of(score: float) -> int:
    """The key by its definition, in Python integers."""
    magnitude = abs(score)
    key = bits_of(magnitude)
    if 0.5 < magnitude < 1:
        steps = bits_of(1.0) - key
        key = bits_of(1.0) + 2**52 - steps - (bits_of(1 - magnitude) - bits_of(2.0**-53)) // 53
    elif magnitude >= 1:
        key += 2**52
    return -key if score < 0 else key


def bits_of(magnitude: float) -> int:
    return struct.unpack(">Q", struct.pack(">d", magnitude))[0]


def keys_held(histogram: ScoreHistogram) -> int:
    return sum(len(run.keys) for run in histogram._runs)


def test_bins_are_the_distinct_scores_in_order():
    scores = np.array([0.5, -0.0, 5e-324, LARGEST, -5e-324, 0.0, -LARGEST, 0.5, -3.25, np.nextafter(0.5, 1)])
    bins = ScoreHistogram.of(scores).bins()
    expected, counts = np.unique(scores, return_counts=True)
    np.testing.assert_array_equal(bins.lower, expected)
    np.testing.assert_array_equal(bins.upper, expected)
    np.testing.assert_array_equal(bins.counts, counts)
    assert not np.signbit(bins.lower[bins.lower == 0]).any()


@given(SCORES)
def test_keys_have_the_order_of_the_scores(scores):
    scores = sorted({score + 0.0 for score in scores} | {0.5, 1.0, np.nextafter(0.5, 1), np.nextafter(1.0, 0), LARGEST})
    keys = [key_of(score) for score in scores]
    assert keys == sorted(set(keys)) and keys[0] > -(2**63) and keys[-1] < 2**63


def test_probabilities_next_to_1_stay_apart_when_others_do():
    """Of a confident classifier: as many within 1e-6 of 1 as above 0.01 from it."""
    rng = np.random.default_rng(0)
    gaps = 10.0 ** rng.uniform(-12, -1, 100_000)
    bins = ScoreHistogram.of(1 - gaps, max_keys=2**12).bins()
    assert bins.counts.max() < 100_000 / 2**12 * 10


def test_float32_scores_count_as_their_float64_value():
    assert ScoreHistogram.of(np.array([0.1, 0.2], np.float32)) == ScoreHistogram.of([np.float32(0.1), np.float32(0.2)])


def test_an_empty_histogram():
    histogram = ScoreHistogram.of([])
    assert (histogram.count, histogram.exact, histogram.level) == (0, True, 0)
    assert [len(values) for values in histogram.bins()] == [0, 0, 0]
    histogram.merge(ScoreHistogram())
    histogram.merge(ScoreHistogram.of([1.0]))
    assert histogram == ScoreHistogram.of([1.0])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_refused_whole(bad):
    histogram = ScoreHistogram.of([1.0])
    with pytest.raises(ValueError, match="1 of 3 scores are NaN or infinite"):
        histogram.add([2.0, bad, 3.0])
    assert histogram == ScoreHistogram.of([1.0])


def test_differing_caps_do_not_merge():
    histogram = ScoreHistogram.of([1.0], max_keys=4)
    with pytest.raises(ValueError, match="max_keys 4 and 8"):
        histogram.merge(ScoreHistogram.of([2.0], max_keys=8))
    assert histogram.count == 1


def test_a_cap_below_two_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        ScoreHistogram(max_keys=1)


def test_equality_looks_at_every_part():
    histogram = ScoreHistogram.of([1.0, 2.0], max_keys=4)
    assert histogram == ScoreHistogram.of([2.0, 1.0], max_keys=4)
    assert histogram != ScoreHistogram.of([1.0, 2.0], max_keys=5)
    assert histogram != ScoreHistogram.of([1.0, 2.0, 2.0], max_keys=4)
    assert histogram != ScoreHistogram.of([1.0, 3.0], max_keys=4)
    assert histogram != [1.0, 2.0]
    # The same keys and counts, at levels 0 and 1.
    assert ScoreHistogram.of([0.0, 0.0, 5e-324], 2) != ScoreHistogram.of([0.0, 5e-324, 1e-323], 2)


@given(SCORES, st.integers(2, 12))
def test_the_level_is_the_finest_that_fits(scores, max_keys):
    histogram = ScoreHistogram.of(scores, max_keys)
    level = next(level for level in range(65) if len({key_of(score) >> level for score in scores}) <= max_keys)
    assert histogram.level == level
    assert histogram.exact == (level == 0)
    bins = histogram.bins()
    assert len(bins.counts) == len({key_of(score) >> level for score in scores})
    for lower, upper, count in zip(*bins, strict=True):
        assert sum(lower <= score <= upper for score in scores) == count
        assert key_of(lower) >> level == key_of(upper) >> level
    assert (bins.lower[1:] > bins.upper[:-1]).all()


def test_coarse_bins_reach_neither_infinity_nor_past_each_other():
    scores = np.array([-LARGEST, -1e300, -5e-324, 0.0, 1e300, LARGEST])
    bins = ScoreHistogram.of(scores, max_keys=2).bins()
    np.testing.assert_array_equal(bins.lower, [-LARGEST, 0.0])
    np.testing.assert_array_equal(bins.upper, [-5e-324, LARGEST])
    np.testing.assert_array_equal(bins.counts, [3, 3])


@settings(max_examples=60)
@given(SCORES, st.sampled_from([2, 7, 32, MAX_KEYS]), st.randoms(use_true_random=False))
def test_order_and_grouping_do_not_matter(scores, max_keys, rng: random.Random):
    whole = ScoreHistogram.of(scores, max_keys)
    rng.shuffle(scores)
    cuts = sorted(rng.randint(0, len(scores)) for _ in range(rng.randint(0, 12)))
    bounds = zip([0, *cuts], [*cuts, len(scores)], strict=True)
    parts = [ScoreHistogram.of(scores[start:stop], max_keys) for start, stop in bounds]
    while len(parts) > 1:
        part = parts.pop(rng.randrange(len(parts)))
        rng.choice(parts).merge(part)
    assert parts[0] == whole
    assert parts[0].count == len(scores)


def test_merging_leaves_the_other_as_it_was():
    rng = np.random.default_rng(0)
    left, right = (ScoreHistogram.of(rng.random(100), max_keys=16) for _ in range(2))
    before = pickle.dumps(right)
    left.merge(right)
    left.add(rng.random(100))
    assert pickle.dumps(right) == before


def test_merging_with_itself_doubles_the_counts():
    histogram = ScoreHistogram.of([1.0, 2.0, 2.0])
    histogram.merge(histogram)
    np.testing.assert_array_equal(histogram.bins().counts, [2, 4])


def test_bins_are_a_copy():
    histogram = ScoreHistogram.of([1.0, 2.0])
    for values in histogram.bins():
        values[:] = 7
    assert histogram == ScoreHistogram.of([1.0, 2.0])


@pytest.mark.parametrize("max_keys", [64, MAX_KEYS])
def test_pickling_round_trip_is_compact(max_keys):
    histogram = ScoreHistogram.of(np.arange(100.0), max_keys)
    histogram.add([3.0])
    held = keys_held(histogram)
    restored = pickle.loads(pickle.dumps(histogram))
    # Counted before comparing, which compacts.
    assert keys_held(restored) == held - 1
    assert restored == histogram
    restored.add([1.0])
    assert restored.count == histogram.count + 1


def test_fewer_than_twice_max_keys_are_ever_held():
    rng = np.random.default_rng(0)
    # Falling sizes are the worst case for a buffer of runs.
    sizes = [*range(200, 0, -3), *rng.integers(1, 500, 200)]
    added, merged = ScoreHistogram(max_keys=128), ScoreHistogram(max_keys=128)
    for size in sizes:
        scores = rng.normal(size=size)
        added.add(scores)
        merged.merge(ScoreHistogram.of(scores, max_keys=128))
        assert max(keys_held(added), keys_held(merged)) < 2 * 128
    assert added == merged
    assert len(added.bins().counts) <= 128


def test_a_small_addition_does_not_pass_over_a_large_histogram():
    rng = np.random.default_rng(0)
    histogram = ScoreHistogram.of(rng.random(2**20), max_keys=2**20)
    largest = histogram._runs[0]
    for _ in range(100):
        histogram.merge(ScoreHistogram.of(rng.random(1000), max_keys=2**20))
    assert histogram._runs[0] is largest
    assert histogram.count == 2**20 + 100_000
    assert len(histogram._runs) < 20


def test_common_bins_are_aligned_at_the_coarser_level():
    rng = np.random.default_rng(0)
    in_scores, out_scores = rng.normal(size=500), rng.normal(size=10)
    in_histogram, out_histogram = ScoreHistogram.of(in_scores, max_keys=32), ScoreHistogram.of(out_scores)
    assert in_histogram.level > out_histogram.level == 0
    bins = common_bins(in_histogram, out_histogram)
    within = [(bins.lower <= score) & (score <= bins.upper) for score in in_scores]
    np.testing.assert_array_equal(np.sum(within, axis=0), bins.in_counts)
    within = [(bins.lower <= score) & (score <= bins.upper) for score in out_scores]
    np.testing.assert_array_equal(np.sum(within, axis=0), bins.out_counts)
    assert (bins.lower[1:] > bins.upper[:-1]).all()
    assert (bins.in_counts + bins.out_counts > 0).all()
    assert set(bins.lower) >= set(in_histogram.bins().lower)


def test_common_bins_of_exact_histograms_are_the_distinct_scores():
    bins = common_bins(ScoreHistogram.of([1.0, 2.0, 2.0]), ScoreHistogram.of([2.0, -3.0]))
    np.testing.assert_array_equal(bins.lower, [-3.0, 1.0, 2.0])
    np.testing.assert_array_equal(bins.upper, [-3.0, 1.0, 2.0])
    np.testing.assert_array_equal(bins.in_counts, [0, 1, 2])
    np.testing.assert_array_equal(bins.out_counts, [1, 0, 1])
