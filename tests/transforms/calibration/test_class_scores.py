"""False flags by predicted class: rare classes are compared with rare classes."""

import numpy as np
import pytest

from odin_beam.transforms.calibration.class_scores import class_scores
from odin_beam.transforms.calibration.conformal import CalibrationScores
from odin_beam.transforms.calibration.flag_rule import FlagRule
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram

# Two frequent classes, and eight rare ones whose scores are lower: predictions are less certain there.
SHARES = np.array([0.45, 0.45, *[0.0125] * 8])
MEANS = np.array([2.0, 1.0, *np.linspace(-2, -1, 8)])


def images(rng, count):
    """Scores, float64 [count], and predictions, int64 [count]."""
    predictions = rng.choice(len(SHARES), count, p=SHARES)
    return rng.normal(MEANS[predictions], 1), predictions


def rules(rng, count, tpr):
    """The rule by class, and the rule that compares rare classes with all images."""
    scores, predictions = images(rng, count)
    histograms = {c: ScoreHistogram.of(scores[predictions == c]) for c in range(len(SHARES))}
    own, rest = class_scores({"msp": histograms})
    everything = CalibrationScores.of(ScoreHistogram.of(scores))
    return FlagRule("msp", rest["msp"], own["msp"], tpr), FlagRule("msp", everything, own["msp"], tpr)


def flagged_share(rule, scores, predictions, of):
    flags = rule.flagged(scores, predictions, rule.p_values(scores, predictions), None)
    return flags[np.isin(predictions, of)].mean()


@pytest.mark.parametrize("tpr", [0.9, 0.95])
def test_false_flags_of_frequent_and_of_rare_classes_keep_the_rate(tpr):
    rng, shares = np.random.default_rng(0), []
    for _ in range(60):
        rule, against_all = rules(rng, 2500, tpr)
        assert sorted(rule.by_class) == [0, 1]
        new = images(rng, 20_000)
        groups = [[0], [1], range(2, 10)]
        shares.append([*(flagged_share(rule, *new, of) for of in groups), flagged_share(against_all, *new, groups[2])])
    means, errors = np.mean(shares, axis=0), np.std(shares, axis=0) / np.sqrt(len(shares))
    # A rank of n calibration scores: at most 1 / (n + 1) above the rate.
    assert np.all(np.abs(means[:3] - (1 - tpr)) < 4 * errors[:3] + 1 / 200)
    assert means[3] > 4 * (1 - tpr)


def test_too_few_scores_of_rare_classes_are_no_distribution():
    def histograms(rare):
        return {"msp": {0: ScoreHistogram.of(np.arange(100.0)), **{c: ScoreHistogram.of([1.0] * 33) for c in rare}}}

    assert class_scores(histograms([1, 2, 3]))[1] == {}
    own, rest = class_scores(histograms([1, 2, 3, 4]))
    assert list(own["msp"]) == [0]
    assert rest["msp"].count == 132
    assert class_scores({}) == ({}, {})
