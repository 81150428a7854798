"""Which cell of a grid is taken, and how sure that is."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from odin_beam.transforms.calibration.choose_cell import Gain, PairedScores, at_edge, best_cells, cell_figures, choose
from odin_beam.transforms.detectors.odin_settings import OdinGrid
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram

GRID = OdinGrid((1.0, 10.0), (0.0, 0.001, 0.002))


def figures(values, objective="auroc"):
    return {name: {objective: value} for name, value in zip(GRID.cells, values, strict=True)}


def test_figures_of_a_cell_are_means_over_the_other_sources():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 200), [rng.normal(0, 1, 100), rng.normal(-1, 1, 50)]
    found = cell_figures(ScoreHistogram.of(inside), [ScoreHistogram.of(one) for one in outside])
    each = [roc_auc_score([1] * 200 + [0] * len(one), np.concatenate([inside, one])) for one in outside]
    assert found["auroc"] == pytest.approx(np.mean(each), abs=1e-12)
    assert found["mean_score"] == pytest.approx(inside.mean(), abs=1e-12)
    assert set(cell_figures(ScoreHistogram.of(inside), [])) == {"mean_score"}


def test_the_best_cells_with_and_without_perturbation_by_the_direction_of_the_objective():
    values = [0.8, 0.9, 0.85, 0.7, 0.9, 0.6]
    assert best_cells(GRID, figures(values), "auroc") == ("odin_T1_eps0p001", "odin_T1_eps0")
    assert best_cells(GRID, figures(values, "fpr_at_95_tpr"), "fpr_at_95_tpr") == ("odin_T10_eps0p002", "odin_T10_eps0")


def test_a_perturbation_is_taken_only_for_a_certain_gain():
    assert choose("moved", "still", Gain("still", 0.1, 0.01, 0.2)) == "moved"
    assert choose("moved", "still", Gain("still", 0.1, -0.01, 0.2)) == "still"
    assert choose("moved", None, None) == "moved"
    assert choose(None, "still", None) == "still"


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("odin_T1_eps0", ["1 is the smallest temperature"]),
        (
            "odin_T10_eps0p002",
            ["10 is the largest temperature", "0.002 is the largest epsilon"],
        ),
        (
            "odin_T10_eps0p001",
            ["10 is the largest temperature", "0.001 is the smallest epsilon"],
        ),
    ],
)
def test_an_optimum_on_the_edge_says_where_to_go_on(cell, said):
    hints = at_edge(GRID, cell)
    assert len(hints) == len(said)
    assert all(hint.startswith(start) for hint, start in zip(hints, said, strict=True))
    assert at_edge(OdinGrid((1.0,), (0.0,)), "odin_T1_eps0") == []


@pytest.mark.parametrize("objective", ["auroc", "fpr_at_95_tpr", "mean_score"])
def test_the_gain_is_the_difference_and_its_interval_holds_it(objective):
    rng = np.random.default_rng(1)
    weak, strong = rng.normal(0.5, 1, 300), rng.normal(2, 1, 300)
    foreign = {"strong": rng.normal(0, 1, 300), "weak": rng.normal(0, 1, 300)}
    paired = PairedScores({"strong": strong, "weak": weak}, [foreign])
    gain = paired.gain("strong", "weak", objective)
    assert gain.low < gain.value < gain.high
    assert gain.certain
    back = paired.gain("weak", "strong", objective)
    assert back.value == pytest.approx(-gain.value)
    assert not back.certain
    if objective == "mean_score":
        assert gain.value == pytest.approx(strong.mean() - weak.mean())


def test_the_same_column_gains_nothing_and_that_is_not_certain():
    scores = np.random.default_rng(2).normal(size=50)
    gain = PairedScores({"a": scores, "b": scores}, [{"a": scores - 1, "b": scores - 1}]).gain("a", "b", "auroc")
    assert (gain.value, gain.low, gain.high, gain.certain) == (0, 0, 0, False)


def test_intervals_of_paired_aurocs_cover_as_often_as_they_say():
    """Two columns of equal merit that share most of their noise: the interval of the gain must hold 0."""
    rng, covered = np.random.default_rng(3), 0
    for _ in range(100):
        base_in, base_out = rng.normal(1, 1, 80), rng.normal(0, 1, 80)
        inside = {name: base_in + 0.3 * rng.normal(size=80) for name in "ab"}
        outside = {name: base_out + 0.3 * rng.normal(size=80) for name in "ab"}
        gain = PairedScores(inside, [outside]).gain("a", "b", "auroc")
        covered += gain.low <= 0 <= gain.high
    # 95 expected, standard deviation 2.2.
    assert covered >= 87
