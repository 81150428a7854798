"""Calibration scores, against the definitions, against SciPy, and in simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from odin_beam.transforms.calibration.conformal import TPRS, CalibrationScores, benjamini_hochberg
from odin_beam.transforms.metrics.detection_metrics import threshold_at_tpr
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram

SCORES = arrays.arrays(np.float64, st.integers(1, 60), elements=st.integers(-5, 5).map(float))


def calibrated(scores, **kwargs):
    return CalibrationScores.of(ScoreHistogram.of(np.asarray(scores, np.float64)), **kwargs)


@given(SCORES, SCORES)
def test_p_values_are_the_definition(scores, new):
    expected = [(1 + np.sum(scores <= s)) / (len(scores) + 1) for s in new]
    np.testing.assert_array_equal(calibrated(scores).p_values(new), expected)


@given(SCORES, st.sampled_from(TPRS))
def test_thresholds_are_those_of_the_metrics(scores, tpr):
    found = calibrated(scores)
    assert found.threshold(tpr) == threshold_at_tpr(ScoreHistogram.of(scores), tpr)
    assert np.mean(scores >= found.threshold(tpr)) >= tpr


@given(SCORES, SCORES, st.sampled_from(TPRS))
def test_of_few_steps_p_values_are_larger_and_thresholds_lower_never_the_other_way(scores, new, tpr):
    exact, coarse = calibrated(scores), calibrated(scores, max_steps=4)
    assert len(coarse.steps) <= 4
    assert coarse.count == exact.count
    assert np.all(coarse.p_values(new) >= exact.p_values(new))
    assert coarse.threshold(tpr) <= exact.threshold(tpr)


def test_of_many_scores_the_lower_end_stays_exact_and_the_rest_is_hardly_off():
    rng = np.random.default_rng(0)
    scores, new = rng.normal(size=100_000), rng.normal(size=10_000)
    found = calibrated(scores)
    assert len(found.steps) <= 4096
    exact = (1 + np.searchsorted(np.sort(scores), new, side="right")) / 100_001
    ratio = found.p_values(new) / exact
    assert ratio.min() >= 1
    assert ratio.max() < 1.03
    assert np.all(ratio[exact < 0.02] == 1)


def test_the_table_reaches_from_half_to_nearly_all_and_never_turns_back():
    assert (TPRS[0], TPRS[-1]) == (0.5, 0.9999)
    assert list(TPRS) == sorted(set(TPRS))
    assert {0.9, 0.95, 0.99, 0.999} <= set(TPRS)
    table = calibrated(np.random.default_rng(0).normal(size=1000)).table()
    thresholds = [row["threshold"] for row in table]
    assert thresholds == sorted(thresholds, reverse=True)
    for row in table:
        low, high = row["realised_tpr"]
        assert low < row["expected_tpr"] < high <= 1


@pytest.mark.parametrize("n", [1, 19, 100, 1000])
def test_the_interval_is_that_of_the_beta_distribution(n):
    for tpr in (0.5, 0.95, 0.9999):
        k = int(np.ceil(tpr * n))
        beta = stats.beta(k, n + 1 - k)
        expected, low, high = calibrated(np.arange(n)).realised_tpr(tpr)
        assert (expected, low, high) == pytest.approx((beta.mean(), beta.ppf(0.025), beta.ppf(0.975)))


def test_the_realised_rate_of_new_images_lies_in_the_interval_as_often_as_it_says():
    rng, inside = np.random.default_rng(1), 0
    for _ in range(400):
        found = calibrated(rng.normal(size=200))
        _, low, high = found.realised_tpr(0.9)
        # The true rate at the threshold, in closed form.
        inside += low <= stats.norm.sf(found.threshold(0.9)) <= high
    # 380 expected, standard deviation 4.4.
    assert 362 <= inside <= 396


def test_p_values_of_held_out_in_distribution_images_are_uniform():
    rng = np.random.default_rng(2)
    p = np.concatenate([calibrated(rng.normal(size=99)).p_values(rng.normal(size=1)) for _ in range(2000)])
    # Exactly uniform on 1/100 ... 100/100.
    observed = np.bincount(np.round(p * 100).astype(int), minlength=101)[1:]
    assert stats.chisquare(observed.reshape(10, 10).sum(axis=1)).pvalue > 0.001
    assert p.min() >= 1 / 100


def naive_rule(p, fdr):
    """Benjamini and Hochberg as they wrote it: sorted p-values against a line."""
    ordered, m = np.sort(p), len(p)
    passing = [i for i in range(m) if ordered[i] <= fdr * (i + 1) / m]
    return ordered[passing[-1]] if passing else 0.0


@given(
    arrays.arrays(np.float64, st.integers(1, 50), elements=st.integers(1, 20).map(lambda k: k / 20)),
    st.floats(0.01, 0.9),
)
def test_the_rule_is_benjamini_and_hochbergs(p, fdr):
    assert benjamini_hochberg(ScoreHistogram.of(p), fdr) == naive_rule(p, fdr)


def test_the_rule_flags_no_more_once_the_histogram_has_dropped_bits():
    p = np.random.default_rng(3).beta(0.3, 1, 5000)
    exact, coarse = ScoreHistogram.of(p), ScoreHistogram.of(p, max_keys=64)
    assert not coarse.exact
    assert 0 < np.mean(p <= benjamini_hochberg(coarse, 0.1)) <= np.mean(p <= benjamini_hochberg(exact, 0.1))


def test_the_false_discovery_rate_is_kept_and_foreign_images_are_found():
    rng, shares, found = np.random.default_rng(4), [], []
    for _ in range(300):
        calibration = calibrated(rng.normal(size=500))
        inside, outside = rng.normal(size=900), rng.normal(-3, 1, size=100)
        p = calibration.p_values(np.concatenate([inside, outside]))
        flagged = p <= benjamini_hochberg(ScoreHistogram.of(p), 0.2)
        shares.append(flagged[:900].sum() / max(1, flagged.sum()))
        found.append(flagged[900:].mean())
    # At most 0.2 times the share of in-distribution images, 0.18; three standard errors above that.
    assert np.mean(shares) <= 0.18 + 3 * np.std(shares) / np.sqrt(300)
    assert np.mean(shares) > 0.1
    assert np.mean(found) > 0.6


def test_nothing_can_be_flagged_where_the_calibration_is_too_small():
    p = calibrated(np.arange(9.0)).p_values(np.concatenate([np.full(5, -1.0), np.full(995, 5.0)]))
    assert benjamini_hochberg(ScoreHistogram.of(p), 0.1) == 0.0
    assert benjamini_hochberg(ScoreHistogram(), 0.1) == 0.0


def test_json_and_back():
    found = calibrated([1.5, 2.0, 2.0, 1e300])
    again = CalibrationScores.from_dict(found.as_dict())
    np.testing.assert_array_equal(again.steps, found.steps)
    np.testing.assert_array_equal(again.at_most, [1, 3, 4])


@pytest.mark.parametrize(
    "said",
    [
        {"steps": [], "at_most": []},
        {"steps": [1.0, 1.0], "at_most": [1, 2]},
        {"steps": [1.0, 2.0], "at_most": [2, 2]},
        {"steps": [1.0], "at_most": [0]},
        {"steps": [1.0], "at_most": [1, 2]},
        {"steps": [1.0], "at_most": [1.5]},
        {"steps": [float("nan")], "at_most": [1]},
        {"steps": ["x"], "at_most": [1]},
        {"steps": [[1.0]], "at_most": [[1]]},
    ],
)
def test_what_is_no_distribution_is_refused(said):
    with pytest.raises(ValueError, match=r".+"):
        CalibrationScores.from_dict(said)


@pytest.mark.parametrize("tpr", [0, -0.1, 1.01, float("nan")])
def test_a_rate_out_of_range_is_refused(tpr):
    with pytest.raises(ValueError, match="true positive rate"):
        calibrated([1.0]).threshold(tpr)


def test_no_scores_are_no_calibration():
    with pytest.raises(ValueError, match="no scores"):
        calibrated([])
