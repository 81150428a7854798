"""AUROC, DeLong's variance and D, against scikit-learn, SciPy and a few lines on the scores themselves."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from odin_beam.transforms.calibration.conformal import CalibrationScores
from odin_beam.transforms.comparison.two_samples import auroc_effect, delong, ks_effect, shard_against_rest
from odin_beam.transforms.metrics.score_histogram import MAX_KEYS, ScoreHistogram, common_bins


def bins(reference, new, max_keys=MAX_KEYS):
    return common_bins(ScoreHistogram.of(reference, max_keys), ScoreHistogram.of(new, max_keys))


def samples(decimals, sizes=(400, 250), seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, sizes[0]).round(decimals), rng.normal(-0.4, 1.3, sizes[1]).round(decimals)


def delong_of_scores(x, y):
    """DeLong et al. 1988, equations 4 and 5, by all pairs."""
    psi = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])
    return psi.mean(), psi.mean(axis=1).var(ddof=1), psi.mean(axis=0).var(ddof=1)


@pytest.mark.parametrize("decimals", [12, 1, 0])
def test_auroc_and_its_variance_are_those_of_the_scores(decimals):
    x, y = samples(decimals)
    found = delong(*bins(x, y)[2:])
    assert found.auroc == pytest.approx(roc_auc_score([1] * len(x) + [0] * len(y), [*x, *y]), abs=1e-12)
    assert found == pytest.approx(delong_of_scores(x, y), abs=1e-12)


@pytest.mark.parametrize("decimals", [12, 1, 0])
def test_d_is_scipys(decimals):
    x, y = samples(decimals)
    assert ks_effect(bins(x, y), 0.05).value == pytest.approx(stats.ks_2samp(x, y).statistic, abs=1e-12)


def test_intervals_are_those_of_the_formulas():
    x, y = samples(12, (4000, 2500))
    auroc, first, second = delong_of_scores(x, y)
    half = stats.t.ppf(1 - 0.01 / 2, 2499) * math.sqrt(first / 4000 + second / 2500)
    found = auroc_effect(bins(x, y), 0.01)
    assert (found.low, found.high) == pytest.approx((auroc - half, auroc + half), abs=1e-9)
    assert half == pytest.approx(stats.norm.ppf(1 - 0.01 / 2) * math.sqrt(first / 4000 + second / 2500), rel=1e-3)
    half = math.sqrt(math.log(4 / 0.01) / 8000) + math.sqrt(math.log(4 / 0.01) / 5000)
    found = ks_effect(bins(x, y), 0.01)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=1e-12)


@pytest.mark.parametrize("max_keys", [2, 16, 64])
def test_intervals_of_coarse_bins_hold_those_of_the_scores(max_keys):
    x, y = samples(12)
    for effect in (auroc_effect, ks_effect):
        exact, coarse = effect(bins(x, y), 0.05), effect(bins(x, y, max_keys), 0.05)
        assert coarse.low <= exact.low <= exact.high <= coarse.high


@pytest.mark.parametrize(("x", "y"), [([1.0], [2.0]), ([1.0], [1.0]), ([1.0], [1.0, 2.0, 3.0]), ([1.0] * 50, [1.0])])
def test_one_image_tells_nothing(x, y):
    found = auroc_effect(bins(x, y), 0.05)
    assert (found.low, found.high) == (0, 1)
    assert found.value == pytest.approx(roc_auc_score([1] * len(x) + [0] * len(y), [*x, *y]))
    found = ks_effect(bins(x, y), 0.05)
    assert (found.low, found.high) == (0, 1)


def test_equal_scores_are_one_half_and_d_is_0():
    auroc, ks = (effect(bins([1.0] * 900, [1.0] * 700), 0.05) for effect in (auroc_effect, ks_effect))
    assert (auroc.value, ks.value, ks.low) == (0.5, 0, 0)
    # No image's placement varies, so what is left is what 700 images can tell.
    assert (auroc.low, auroc.high) == pytest.approx((0.5 * 0.025 ** (1 / 700), 1 - 0.5 * 0.025 ** (1 / 700)))


@pytest.mark.parametrize(("images", "reaches"), [(3, True), (100, False)])
def test_complete_separation_is_not_certainty(images, reaches):
    found = auroc_effect(bins(np.arange(images) + 1000.0, np.arange(images) * 1.0), 0.05 / 12)
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx((0.05 / 24) ** (1 / images))
    assert (found.low < 0.55) == reaches


@pytest.mark.parametrize("decimals", [12, 1, 0])
@pytest.mark.parametrize("size", [1, 7, 399])
def test_a_shard_against_the_rest_is_what_scikit_learn_and_scipy_say(decimals, size):
    x = samples(decimals)[0]
    shard, rest = x[:size], x[size:]
    auroc, d = shard_against_rest(CalibrationScores.of(ScoreHistogram.of(x), MAX_KEYS), ScoreHistogram.of(shard).bins())
    assert auroc == pytest.approx(roc_auc_score([1] * len(rest) + [0] * len(shard), [*rest, *shard]), abs=1e-12)
    assert d == pytest.approx(stats.ks_2samp(rest, shard).statistic, abs=1e-12)


def test_the_only_shard_has_no_rest():
    assert (
        shard_against_rest(CalibrationScores.of(ScoreHistogram.of([1.0, 2.0])), ScoreHistogram.of([1.0, 2.0]).bins())
        is None
    )


def test_a_shard_of_a_coarse_reference_is_binned_as_that_is():
    x = samples(12)[0]
    coarse = ScoreHistogram.of(x, 64)
    steps = coarse.bins().lower
    binned = steps[np.searchsorted(steps, x, side="right") - 1]
    exact = CalibrationScores.of(ScoreHistogram.of(binned), MAX_KEYS)
    found = shard_against_rest(CalibrationScores.of(coarse, MAX_KEYS), ScoreHistogram.of(x[:50]).bins())
    assert found == shard_against_rest(exact, ScoreHistogram.of(binned[:50]).bins())
