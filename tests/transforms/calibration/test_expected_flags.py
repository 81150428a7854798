"""The number of flags to expect: against SciPy's beta-binomial, and in simulation."""

import time

import numpy as np
import pytest
from scipy import stats

from odin_beam.transforms.calibration.expected_flags import (
    Group,
    Spread,
    flags_at_most,
    flags_to_expect,
    unlike_at_least,
)
from odin_beam.transforms.metrics.tpr_rank import tpr_rank

REPEATS = 2000
# 95 % of 2,000, less four standard deviations.
LEAST_COVERAGE = 0.95 - 4 * np.sqrt(0.95 * 0.05 / REPEATS)


def calibrated(rng, n, tpr, atoms=None):
    """The place of the threshold among n calibration scores, and the true share of new scores below it.

    Scores are uniform in (0, 1), or, with `atoms` equally likely values, rounded down to one of them.
    """
    scores = rng.random(n)
    if atoms:
        scores = np.floor(scores * atoms) / atoms
    threshold = np.sort(scores)[n - tpr_rank(tpr, n)]
    return int(np.sum(scores < threshold)), bool(np.sum(scores == threshold) > 1), threshold


@pytest.mark.parametrize(("images", "n", "below"), [(1, 1, 0), (10, 20, 0), (213, 1000, 50), (500, 100, 99)])
def test_the_distribution_is_the_beta_binomial(images, n, below):
    group, m = Group(images, n, below), np.arange(images + 1)
    for rank in (below, below + 1):
        expected = stats.betabinom.cdf(m, images, rank, n + 1 - rank) if rank else np.ones(images + 1)
        found = [flags_at_most(int(count), group, rank) for count in m]
        np.testing.assert_allclose(found, expected, atol=1e-9)
    assert flags_at_most(-1, group) == 0
    assert group.expected == pytest.approx(images * (below + 1) / (n + 1))


def test_the_interval_of_213_images_is_wider_than_that_of_a_rate():
    assert flags_to_expect([Group(213, 1000, 50)]) == (5, 18)
    low, high = 213 * stats.beta(51, 950).ppf([0.025, 0.975])
    rng = np.random.default_rng(0)
    flags = rng.binomial(213, rng.beta(51, 950, 100_000))
    assert np.mean((flags >= low) & (flags <= high)) < 0.75


@pytest.mark.parametrize("n", [100, 1000, 10_000])
@pytest.mark.parametrize("images", [10, 213, 10_000, 10_000_000])
def test_the_interval_covers_as_often_as_it_says(n, images):
    rng = np.random.default_rng(n + images)
    below, _, _ = calibrated(rng, n, 0.95)
    low, high = flags_to_expect([Group(images, n, below)])
    # The threshold is the order statistic of this rank, whose share follows the beta distribution.
    flags = rng.binomial(images, rng.beta(below + 1, n - below, 20 * REPEATS))
    assert np.mean((flags >= low) & (flags <= high)) > 0.95 - 4 * np.sqrt(0.95 * 0.05 / (20 * REPEATS))
    assert high - low <= stats.betabinom(images, below + 1, n - below).std() * 4.1 + 1


@pytest.mark.parametrize("n", [100, 1000])
@pytest.mark.parametrize("images", [213, 1_000_000])
@pytest.mark.parametrize("atoms", [None, 20, 100, 1000])
def test_the_interval_covers_from_scores_to_flags_with_ties_too(n, images, atoms):
    rng, covered, intervals = np.random.default_rng(1), 0, {}
    for _ in range(REPEATS):
        below, tied, share = calibrated(rng, n, 0.95, atoms)
        if (below, tied) not in intervals:
            intervals[below, tied] = flags_to_expect([Group(images, n, below, tied)])
        low, high = intervals[below, tied]
        covered += low <= rng.binomial(images, share) <= high
    assert covered / REPEATS > LEAST_COVERAGE


def test_without_the_lower_rank_ties_would_break_the_interval():
    rng, missed = np.random.default_rng(2), 0
    for _ in range(500):
        below, _, share = calibrated(rng, 100, 0.95, atoms=20)
        missed += rng.binomial(10**6, share) < flags_to_expect([Group(10**6, 100, below)]).low
    assert missed / 500 > 0.2


def test_a_sum_over_classes_is_covered_where_ends_do_not_add_up():
    # 300 classes of one image each: every class's own interval is 0 to 0.
    groups = [Group(1, 200, 3) for _ in range(300)]
    assert flags_to_expect(groups[:1]) == (0, 0)
    low, high = flags_to_expect(groups)
    rng = np.random.default_rng(3)
    flags = rng.binomial(1, rng.beta(4, 197, (REPEATS, 300))).sum(axis=1)
    assert np.mean((flags >= low) & (flags <= high)) > LEAST_COVERAGE
    assert high - low < 15


def test_no_images_no_flags():
    assert flags_to_expect([]) == flags_to_expect([Group(0, 10, 3)]) == (0, 0)


def test_a_threshold_at_the_lowest_of_tied_scores_may_flag_nothing():
    assert flags_to_expect([Group(1000, 100, 0, tied=True)]).low == 0


def test_one_billion_images_take_no_time():
    started = time.perf_counter()
    low, high = flags_to_expect([Group(10**9, 10**6, 50_000)])
    assert time.perf_counter() - started < 1
    assert low < 0.05 * 10**9 < high


@pytest.mark.parametrize("n", [100, 1000, 10_000])
@pytest.mark.parametrize("images", [10, 213, 10_000, 10_000_000])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.2])
def test_the_lower_bound_is_below_the_number_of_foreign_images(n, images, share):
    rng, below, foreign = np.random.default_rng(n), n - tpr_rank(0.95, n), round(share * images)
    group, repeats = Group(images, n, below), 300
    rates = rng.beta(below + 1, n - below, repeats)
    # All foreign images are flagged: where fewer are, the bound covers more often.
    flags = rng.binomial(images - foreign, rates) + foreign
    bounds = np.array([unlike_at_least([group], int(count)) for count in flags])
    assert np.mean(bounds <= foreign) > 0.95 - 4 * np.sqrt(0.95 * 0.05 / repeats)
    if share == 0.2 and images >= 213:
        # A share of images that are like them is flagged too, and the rate is uncertain; little more is lost.
        assert np.median(bounds) > foreign * (0.45 if n == 100 else 0.75)


def test_the_lower_bound_is_the_smallest_number_that_is_not_refuted():
    group, flagged = Group(213, 1000, 50), 60
    likely = [stats.betabinom.sf(flagged - m - 1, 213 - m, 51, 950) > 0.05 if m < flagged else True for m in range(61)]
    assert likely == sorted(likely)
    assert unlike_at_least([group], flagged) == likely.index(True) == 46
    assert unlike_at_least([group], 12) == unlike_at_least([], 0) == 0


def test_the_lower_bound_over_classes_holds():
    rng, groups = np.random.default_rng(5), [Group(40, 200, 9), Group(100, 1000, 50), Group(3, 150, 7)]
    rates = [rng.beta(g.below + 1, g.calibration_images - g.below, 500) for g in groups]
    # 30 of the second class's images are foreign.
    like = sum(rng.binomial(size, rate) for size, rate in zip((40, 70, 3), rates, strict=True))
    values, counts = np.unique(like + 30, return_counts=True)
    held = sum(c for v, c in zip(values, counts, strict=True) if unlike_at_least(groups, int(v)) <= 30)
    assert held / 500 > 0.92


def spread_of(flags, images):
    flags, images = np.asarray(flags, float), np.asarray(images, float)
    return Spread(len(flags), int(images.sum()), int(flags.sum()), float((flags**2 / images).sum()))


def test_the_design_effect_is_pearsons_chi_square_by_degrees_of_freedom():
    flags, images = [3, 9, 20], [100, 120, 150]
    table = np.array([flags, np.subtract(images, flags)])
    chi_square = stats.chi2_contingency(table, correction=False).statistic
    assert spread_of(flags, images).design == pytest.approx(chi_square / 2)
    assert spread_of([5], [100]).design is None
    assert spread_of([0, 0], [100, 100]).design is None
    assert spread_of([5, 5], [100, 100]).design == 1
    assert not spread_of([5, 5], [100, 100]).clustered


def test_copies_are_noticed_and_widen_the_interval_and_the_bound():
    """2,000 images in 10 shards, every image there 20 times, all like the calibration images."""
    rng, repeats, plain, widened, bounds, designs = np.random.default_rng(6), 250, 0, 0, 0, []
    group = Group(2000, 1000, 50)
    for rate in rng.beta(51, 950, repeats):
        flags = 20 * rng.binomial(10, rate, 10)
        spread, flagged = spread_of(flags, [200] * 10), int(flags.sum())
        designs.append(spread.design or 1.0)
        design = spread.design if spread.clustered else 1.0
        for name, (low, high) in {"plain": flags_to_expect([group]), "wide": flags_to_expect([group], design)}.items():
            plain += name == "plain" and low <= flagged <= high
            widened += name == "wide" and low <= flagged <= high
        bounds += unlike_at_least([group], flagged, design) == 0
    assert np.median(designs) == pytest.approx(19, abs=4)
    assert plain / repeats < 0.6
    assert widened / repeats > 0.95 - 4 * np.sqrt(0.95 * 0.05 / repeats)
    assert bounds / repeats > 0.95 - 4 * np.sqrt(0.95 * 0.05 / repeats)


def test_independent_images_are_rarely_called_clustered():
    rng = np.random.default_rng(7)
    called = [spread_of(rng.binomial(500, 0.05, 8), [500] * 8).clustered for _ in range(500)]
    assert np.mean(called) < 0.03
