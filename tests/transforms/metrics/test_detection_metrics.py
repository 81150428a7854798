import itertools
import json
import random
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.testing.util import assert_that, equal_to
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from odin_beam.transforms.metrics.combine_scores import CombineScoreHistograms
from odin_beam.transforms.metrics.detection_metrics import detection_metrics, threshold_at_tpr
from odin_beam.transforms.metrics.score_histogram import MAX_KEYS, ScoreHistogram

KERAS_ODIN_SCORES = Path(__file__).resolve().parents[4] / "shared" / "data" / "keras_odin_scores"


def reference(in_scores: np.ndarray, out_scores: np.ndarray) -> dict[str, float]:
    """Every metric from the scores themselves, by scikit-learn where it has it."""
    scores = np.concatenate([in_scores, out_scores])
    is_in = np.repeat([1, 0], [len(in_scores), len(out_scores)])
    fpr, tpr, _ = sklearn_metrics.roc_curve(is_in, scores, drop_intermediate=False)
    in_precision, in_recall, _ = sklearn_metrics.precision_recall_curve(is_in, scores)
    out_precision, out_recall, _ = sklearn_metrics.precision_recall_curve(1 - is_in, -scores)
    threshold = np.sort(in_scores)[::-1][-(-19 * len(in_scores) // 20) - 1]
    out_threshold = np.sort(out_scores)[-(-19 * len(out_scores) // 20) - 1]
    return {
        "fpr_at_95_tpr": np.mean(out_scores >= threshold),
        "detection_error": np.min(0.5 * (1 - tpr) + 0.5 * fpr),
        "auroc": sklearn_metrics.roc_auc_score(is_in, scores),
        "aupr_in": sklearn_metrics.average_precision_score(is_in, scores),
        "aupr_out": sklearn_metrics.average_precision_score(1 - is_in, -scores),
        "threshold_at_95_tpr": threshold,
        "fpr_at_95_tpr_out_positive": np.mean(in_scores <= out_threshold),
        "aupr_in_trapezoid": sklearn_metrics.auc(in_recall, in_precision),
        "aupr_out_trapezoid": sklearn_metrics.auc(out_recall, out_precision),
    }


def assert_equals_reference(in_scores, out_scores):
    in_scores, out_scores = np.asarray(in_scores, np.float64), np.asarray(out_scores, np.float64)
    metrics = detection_metrics(ScoreHistogram.of(in_scores), ScoreHistogram.of(out_scores))
    assert metrics.exact
    assert (metrics.in_count, metrics.out_count) == (len(in_scores), len(out_scores))
    expected = reference(in_scores, out_scores)
    assert metrics.bounds.keys() == expected.keys()
    for name, value in expected.items():
        assert getattr(metrics, name) == pytest.approx(value, abs=1e-9, rel=0), name
        assert metrics.bounds[name] == (getattr(metrics, name),) * 2, name
    assert metrics.threshold_at_95_tpr == expected["threshold_at_95_tpr"]
    return metrics


@pytest.mark.parametrize(
    ("in_scores", "out_scores"),
    [
        pytest.param([0.5], [0.4], id="one image per side, right"),
        pytest.param([0.4], [0.5], id="one image per side, wrong"),
        pytest.param([0.5], [0.5], id="one image per side, tied"),
        pytest.param([0.5] * 30, [0.5] * 7, id="all equal"),
        pytest.param(np.linspace(2, 3, 50), np.linspace(0, 1, 70), id="disjoint, right"),
        pytest.param(np.linspace(0, 1, 50), np.linspace(2, 3, 70), id="disjoint, wrong"),
        pytest.param(-(np.linspace(0, 5, 61) ** 2), -(np.linspace(1, 6, 40) ** 2), id="negative"),
        pytest.param([-1.0, 0.0, 2.0], [-0.0, 0.0, -2.0], id="both zeros"),
        pytest.param([np.nextafter(0.1, 1), 0.1], [0.1, np.nextafter(0.1, 0)], id="one ulp apart"),
        pytest.param([-1e300, 5e-324, 1e300], [-5e-324, 0.0], id="extreme"),
    ],
)
def test_equal_to_scikit_learn(in_scores, out_scores):
    assert_equals_reference(in_scores, out_scores)


@pytest.mark.parametrize("seed", range(20))
def test_equal_to_scikit_learn_with_many_ties(seed):
    rng = np.random.default_rng(seed)
    in_size, out_size = rng.integers(1, 2000, 2)
    decimals = rng.integers(0, 4)
    assert_equals_reference(
        np.round(rng.normal(1, 1, in_size), decimals), np.round(rng.normal(0, 1, out_size), decimals)
    )


def test_scores_at_high_temperature_stay_exact():
    rng = np.random.default_rng(0)
    in_scores, out_scores = (0.1 + 1e-3 * rng.beta(a, 4, 10_000) for a in (4, 2))
    metrics = assert_equals_reference(in_scores, out_scores)
    assert 0.6 < metrics.auroc < 0.9


@pytest.mark.skipif(not KERAS_ODIN_SCORES.is_dir(), reason=f"no {KERAS_ODIN_SCORES}")
@pytest.mark.parametrize(
    ("name", "fpr", "error", "auroc", "aupr_in", "aupr_out"),
    [("Base", 24.42, 11.935, 94.854, 94.736, 94.842), ("Our", 7.39, 6.02, 98.350, 97.673, 98.399)],
)
def test_published_scores(name, fpr, error, auroc, aupr_in, aupr_out):
    in_scores, out_scores = (
        np.loadtxt(KERAS_ODIN_SCORES / f"confidence_{name}_{side}.txt", delimiter=",", usecols=2)
        for side in ("In", "Out")
    )
    metrics = assert_equals_reference(in_scores, out_scores)
    assert 100 * metrics.fpr_at_95_tpr == pytest.approx(fpr, abs=1e-9)
    assert 100 * metrics.detection_error == pytest.approx(error, abs=1e-9)
    assert 100 * metrics.auroc == pytest.approx(auroc, abs=5e-4)
    assert 100 * metrics.aupr_in == pytest.approx(aupr_in, abs=5e-4)
    assert 100 * metrics.aupr_out == pytest.approx(aupr_out, abs=5e-4)


def random_scores(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores of varied sizes and overlap, with no ties, many, or some that only coarse bins confuse with others."""
    sizes = np.exp(rng.uniform([2.5, 0], 7)).astype(int)
    shift = rng.choice([-2.0, 0.0, 0.5, 2.0, 8.0])
    spread = rng.choice([1e-12, 1e-3, 1.0, 1e3])
    match rng.integers(4):
        case 0:
            scores = [rng.normal(mean, 1, size) for mean, size in zip((shift, 0), sizes, strict=True)]
        case 1:
            scores = [np.round(rng.normal(mean, 1, size), 2) for mean, size in zip((shift, 0), sizes, strict=True)]
        case 2:
            scores = [np.exp(3 * rng.normal(mean, 1, size)) for mean, size in zip((shift, 0), sizes, strict=True)]
        case _:
            # A few centres with small satellites: ties proper, and neighbours that become ties.
            centres = rng.normal(size=12)
            scores = [rng.choice(centres, size) * (1 + 1e-9 * rng.integers(0, 9, size)) for size in sizes]
    offset = rng.choice([0.0, 0.1, 5.0]) if spread < 1 else 0.0
    in_scores, out_scores = (offset + spread * scores[side] for side in rng.permutation(2))
    return in_scores, out_scores


@pytest.mark.parametrize("seed", range(200))
def test_bounds_hold_the_true_value(seed):
    rng = np.random.default_rng(seed)
    in_scores, out_scores = random_scores(rng)
    distinct = max(len(np.unique(scores)) for scores in (in_scores, out_scores))
    max_keys = min(int(rng.choice([2, 3, 8, 64, 256])), distinct - 1)
    metrics = detection_metrics(ScoreHistogram.of(in_scores, max_keys), ScoreHistogram.of(out_scores, max_keys))
    assert not metrics.exact
    for name, value in reference(in_scores, out_scores).items():
        low, high = metrics.bounds[name]
        # The room is for rounding; thresholds are bin edges, so they need none.
        room = 0 if name.startswith("threshold") else 1e-12
        assert low - room <= value <= high + room, name
        assert low <= getattr(metrics, name) <= high, name


def test_bounds_hold_when_only_one_side_is_coarse():
    rng = np.random.default_rng(0)
    in_scores, out_scores = rng.normal(1, 1, 5000), rng.normal(0, 1, 20)
    metrics = detection_metrics(ScoreHistogram.of(in_scores, 64), ScoreHistogram.of(out_scores, 64))
    assert not metrics.exact
    for name, value in reference(in_scores, out_scores).items():
        low, high = metrics.bounds[name]
        assert low - 1e-12 <= value <= high + 1e-12, name


def test_bounds_are_the_extremes_over_all_orders_in_a_bin():
    inner = 1 + np.arange(4) * np.spacing(1.0)
    possible = [
        reference(np.array([8, -4, *inner[[a, b]]]), np.array([4, -8, *inner[[c, d]]]))
        for a, b, c, d in itertools.product(range(4), repeat=4)
    ]
    # Three keys leave no room to tell the inner scores apart.
    metrics = detection_metrics(
        ScoreHistogram.of([8, -4, *inner[[0, 3]]], max_keys=3), ScoreHistogram.of([4, -8, *inner[[1, 2]]], max_keys=3)
    )
    slacks = {
        "detection_error": 0,
        "auroc": 0,
        "aupr_in": 1e-3,
        "aupr_out": 1e-3,
        "aupr_in_trapezoid": 1e-2,
        "aupr_out_trapezoid": 1e-2,
    }
    for name, slack in slacks.items():
        values = [case[name] for case in possible]
        low, high = metrics.bounds[name]
        assert min(values) - slack - 1e-12 <= low <= min(values) + 1e-12, name
        assert max(values) - 1e-12 <= high <= max(values) + slack + 1e-12, name


def test_bounds_are_narrow_at_a_moderate_cap():
    rng = np.random.default_rng(0)
    metrics = detection_metrics(
        ScoreHistogram.of(rng.normal(1, 1, 20_000), 4096), ScoreHistogram.of(rng.normal(0, 1, 20_000), 4096)
    )
    assert not metrics.exact
    for name, (low, high) in metrics.bounds.items():
        assert high - low < 5e-3, name


@settings(max_examples=40)
@given(
    st.lists(st.floats(-4, 4), min_size=1, max_size=40),
    st.lists(st.floats(-4, 4), min_size=1, max_size=40),
    st.sampled_from([2, 16, MAX_KEYS]),
    st.randoms(use_true_random=False),
)
def test_metrics_do_not_depend_on_the_order_of_merging(in_scores, out_scores, max_keys, rng: random.Random):
    def merged(scores):
        parts = [ScoreHistogram.of([score], max_keys) for score in scores]
        while len(parts) > 1:
            part = parts.pop(rng.randrange(len(parts)))
            rng.choice(parts).merge(part)
        return parts[0]

    whole = detection_metrics(ScoreHistogram.of(in_scores, max_keys), ScoreHistogram.of(out_scores, max_keys))
    assert detection_metrics(merged(in_scores), merged(out_scores)) == whole


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (19, 19), (20, 19), (21, 20), (100, 95), (1000, 950)])
def test_threshold_rank_is_exact(count, rank):
    scores = np.arange(count, dtype=np.float64)
    descending = scores[::-1]
    histogram = ScoreHistogram.of(scores)
    assert threshold_at_tpr(histogram) == descending[rank - 1]
    # Against itself, the share accepted is the true positive rate on either side.
    metrics = detection_metrics(histogram, histogram)
    assert metrics.threshold_at_95_tpr == descending[rank - 1]
    assert metrics.fpr_at_95_tpr == metrics.fpr_at_95_tpr_out_positive == rank / count


def test_threshold_takes_the_rate_as_the_decimal_it_prints_as():
    histogram = ScoreHistogram.of(np.arange(100.0))
    # In float64, 0.55 * 100 is a little above 55, and 0.07 * 100 above 7.
    assert threshold_at_tpr(histogram, 0.55) == 45
    assert threshold_at_tpr(histogram, 0.07) == 93
    assert threshold_at_tpr(histogram, np.float32(0.95)) == 5
    assert threshold_at_tpr(histogram, 1.0) == 0


@pytest.mark.parametrize("tpr", [0.0, -0.1, 1.01, float("nan")])
def test_rates_out_of_range_are_refused(tpr):
    with pytest.raises(ValueError, match="true positive rate"):
        threshold_at_tpr(ScoreHistogram.of([1.0]), tpr)


def test_an_empty_side_is_refused():
    some, none = ScoreHistogram.of([1.0]), ScoreHistogram()
    with pytest.raises(ValueError, match="no in-distribution scores"):
        detection_metrics(none, some)
    with pytest.raises(ValueError, match="no out-of-distribution scores"):
        detection_metrics(some, none)
    with pytest.raises(ValueError, match="no scores"):
        threshold_at_tpr(none)


def test_the_dictionary_survives_json():
    metrics = detection_metrics(ScoreHistogram.of([3.0, 1.0]), ScoreHistogram.of([2.0]))
    written = metrics.as_dict()
    assert json.loads(json.dumps(written, allow_nan=False)) == written
    assert list(written)[:3] == ["in_count", "out_count", "exact"]
    assert written["exact"] is True
    assert written["auroc"] == 0.5
    assert written["bounds"]["auroc"] == [0.5, 0.5]


@pytest.mark.parametrize("max_keys", [64, MAX_KEYS])
def test_combine_in_a_pipeline(max_keys):
    rng = np.random.default_rng(0)
    scores = {key: rng.normal(size=(30, 20)) for key in ("msp", "odin")}
    shards = [(key, ScoreHistogram.of(shard, max_keys)) for key, array in scores.items() for shard in array]
    expected = [(key, ScoreHistogram.of(array.ravel(), max_keys)) for key, array in scores.items()]
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        combined = (
            pipeline
            | beam.Create(shards)
            | beam.Reshuffle()
            | beam.CombinePerKey(CombineScoreHistograms(max_keys=max_keys))
        )
        assert_that(combined, equal_to(expected))


def test_combine_changes_no_input():
    elements = [ScoreHistogram.of([1.0, 2.0]), ScoreHistogram.of([3.0])]
    combine = CombineScoreHistograms()
    accumulators = [combine.add_input(combine.create_accumulator(), element) for element in elements]
    combine.add_input(accumulators[0], elements[1])
    merged = combine.extract_output(combine.merge_accumulators(accumulators))
    assert merged == ScoreHistogram.of([1.0, 2.0, 3.0, 3.0])
    assert elements == [ScoreHistogram.of([1.0, 2.0]), ScoreHistogram.of([3.0])]
    assert combine.merge_accumulators([]) == ScoreHistogram()
