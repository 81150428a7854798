"""Which detector is recommended, and on what evidence."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from odin_beam.transforms.calibration.choose_detector import choose_detector, held_out_gains
from odin_beam.transforms.calibration.grid_scores import SourceScores

CELLS = ("odin_T1_eps0", "odin_T1_eps0p001")


def source(columns, blocks=None):
    count = len(next(iter(columns.values())))
    blocks = np.arange(count) if blocks is None else blocks
    return SourceScores(columns, np.zeros(count, np.int32), np.zeros(count, np.int64), blocks)


def images(rng, shifts, count=400, first=0):
    """Scores around `shifts`, which share most of their noise between columns."""
    shared = rng.normal(size=count)
    columns = {name: shared + shift + 0.3 * rng.normal(size=count) for name, shift in shifts.items()}
    return source(columns, np.arange(first, first + count))


def choose(inside, outside, surrogates=False, cell=CELLS[0]):
    return choose_detector(inside, outside, list(inside.columns), CELLS, cell, surrogates)


ZERO = {"gen": 0.0, "energy": 0.0, "odin_T1_eps0": 0.0}


def below(**shifts):
    return {name: -shifts.get(name, 1.0) for name in ZERO}


def test_gen_is_recommended_where_nothing_is_better():
    rng = np.random.default_rng(0)
    choice = choose(images(rng, ZERO), {"a": images(rng, below()), "b": images(rng, below())}, surrogates=True)
    assert choice.detector == "gen"
    assert "no detector is certainly better" in choice.reason
    assert {row.detector for row in choice.comparisons} == {"energy", "odin_T1_eps0"}


def test_a_detector_that_is_better_on_all_kinds_is_recommended():
    rng = np.random.default_rng(1)
    outside = {name: images(rng, below(energy=1.6)) for name in "ab"}
    choice = choose(images(rng, ZERO), outside, surrogates=True)
    assert choice.detector == "energy"
    best = choice.comparisons[0]
    assert best.detector == "energy"
    assert 0 < best.low < best.gain


def test_a_detector_that_loses_on_one_kind_is_not():
    rng = np.random.default_rng(2)
    outside = {"a": images(rng, below(energy=2.5)), "b": images(rng, below(energy=0.9))}
    choice = choose(images(rng, ZERO), outside, surrogates=True)
    assert choice.comparisons[0].gain > 0.02
    assert choice.comparisons[0].worst_family == "b"
    assert choice.comparisons[0].worst_gain < -0.01
    assert choice.detector == "gen"


BOTH = {**ZERO, "gen_mds_unit": 0.0}


def test_with_a_reference_altered_copies_do_not_overrule_the_lower_of_both():
    rng = np.random.default_rng(10)
    outside = {name: images(rng, {name: -1.0 for name in BOTH} | {"energy": -2.5}) for name in "ab"}
    choice = choose(images(rng, BOTH), outside, surrogates=True)
    assert (choice.detector, choice.default) == ("gen_mds_unit", "gen_mds_unit")
    assert choice.comparisons[0].detector == "energy"
    assert choice.comparisons[0].is_better
    assert "gen_mds_unit" not in {row.detector for row in choice.comparisons}


def test_foreign_images_do():
    rng = np.random.default_rng(11)
    outside = {"a": images(rng, {name: -1.0 for name in BOTH} | {"energy": -2.5})}
    choice = choose(images(rng, BOTH), outside)
    assert (choice.detector, choice.default) == ("energy", "gen_mds_unit")
    assert choice.reason == "better than gen_mds_unit by more than chance"


def test_without_scores_of_it_for_all_images_the_default_is_gen():
    rng = np.random.default_rng(12)
    inside, outside = images(rng, BOTH), {"a": images(rng, {name: -1.0 for name in BOTH})}
    inside.columns["gen_mds_unit"][3] = np.nan
    assert choose(inside, outside).default == "gen"
    assert choose(inside, {"a": images(rng, BOTH, 50)}).detector == "gen"


def test_the_cell_of_odin_competes_as_odin():
    rng = np.random.default_rng(3)
    outside = {name: images(rng, below(odin_T1_eps0=1.6)) for name in "ab"}
    assert choose(images(rng, ZERO), outside).detector == "odin_T1_eps0"
    assert choose(images(rng, ZERO), outside, cell=CELLS[1]).detector == "gen"


def test_the_gain_is_the_difference_of_the_aurocs():
    rng = np.random.default_rng(4)
    inside, outside = images(rng, ZERO), {"a": images(rng, below(energy=1.3)), "b": images(rng, below(energy=0.7))}
    # Ties.
    for scores in (inside, *outside.values()):
        scores.columns["energy"][:] = scores.columns["energy"].round(1)

    def auroc(name, column):
        labels = [1] * len(inside) + [0] * len(outside[name])
        return roc_auc_score(labels, np.concatenate([inside.columns[column], outside[name].columns[column]]))

    gains = [auroc(name, "energy") - auroc(name, "gen") for name in "ab"]
    row = next(row for row in choose(inside, outside).comparisons if row.detector == "energy")
    assert row.gain == pytest.approx(np.mean(gains), abs=1e-12)
    assert row.worst_gain == pytest.approx(min(gains), abs=1e-12)
    assert held_out_gains(inside, outside, ["energy"], "gen")["energy"][0] == pytest.approx(np.mean(gains), abs=1e-12)


@pytest.mark.parametrize(
    ("inside", "outside", "surrogates", "reason"),
    [
        (99, {"a": 400, "b": 400}, False, "only 99 images"),
        (400, {"a": 99}, False, "a: fewer than 100 images"),
        (400, {"a": 400, "b": 99}, True, "b: fewer than 100 images"),
        (400, {}, False, "no images to compare with"),
    ],
)
def test_too_few_images_are_no_evidence(inside, outside, surrogates, reason):
    rng = np.random.default_rng(5)
    outside = {name: images(rng, below(energy=3.0), count) for name, count in outside.items()}
    choice = choose(images(rng, ZERO, inside), outside, surrogates)
    assert choice.detector == "gen"
    assert reason in choice.reason
    assert choice.comparisons == ()


def test_a_kind_that_all_detectors_separate_is_no_evidence():
    rng = np.random.default_rng(6)
    easy = {name: -20.0 for name in ZERO}
    choice = choose(images(rng, ZERO), {"noise": images(rng, easy)})
    assert choice.detector == "gen"
    assert "noise: too easy: 3 detectors have an AUROC above 99.5 %" in choice.reason


def test_a_detector_without_a_score_for_some_image_is_left_out():
    rng = np.random.default_rng(7)
    inside, outside = images(rng, ZERO), {"a": images(rng, below(energy=3.0))}
    outside["a"].columns["energy"][5] = np.nan
    assert [row.detector for row in choose(inside, outside).comparisons] == ["odin_T1_eps0"]


def test_the_bound_holds_for_the_best_of_equal_detectors():
    """Without a true difference, a better one is claimed in 5 % of all cases, though the best of five is looked at."""
    rng, claimed, runs = np.random.default_rng(8), 0, 200
    names = ["gen", *"abcde"]
    for _ in range(runs):
        inside = images(rng, dict.fromkeys(names, 0.0), 150)
        outside = {"x": images(rng, dict.fromkeys(names, -1.0), 150, first=1000)}
        choice = choose_detector(inside, outside, names, (), "", False)
        claimed += max(row.low for row in choice.comparisons) > 0
    # 10 expected, standard deviation 3.1.
    assert claimed <= 20


def test_images_made_of_the_same_originals_are_resampled_together():
    """Copies add no evidence: with each block 16 times, the interval is that of the originals."""
    rng = np.random.default_rng(9)
    inside, outside = images(rng, ZERO), images(rng, below(energy=1.1))
    copies = {
        name: source({k: np.tile(v, 16) for k, v in scores.columns.items()}, np.tile(scores.blocks, 16))
        for name, scores in (("inside", inside), ("outside", outside))
    }
    _, low, high = held_out_gains(inside, {"a": outside}, ["energy"], "gen")["energy"]
    of_copies = held_out_gains(copies["inside"], {"a": copies["outside"]}, ["energy"], "gen")
    _, low_of_copies, high_of_copies = of_copies["energy"]
    assert high_of_copies - low_of_copies == pytest.approx(high - low, rel=0.1)


def test_without_images_there_is_no_gain():
    with pytest.raises(ValueError, match="no images"):
        held_out_gains(source({"gen": np.empty(0), "msp": np.empty(0)}), {}, ["msp"], "gen")
