"""The simulation of tests/by_hand, in short: intervals hold, and verdicts are rarely wrong."""

import pytest

from odin_beam.transforms.comparison.verdicts import CANNOT_SAY, MOVED, NO_MOVE
from tests.by_hand.coverage_of_comparisons import mix_coverage, score_coverage, verdicts


# Of 400 simulations, 95 % and less than 92 % differ by chance with a probability of 1 %.
@pytest.mark.parametrize(("images", "new_images"), [(5, 5), (100, 40), (400, 400)])
@pytest.mark.parametrize(("shift", "decimals"), [(0.0, None), (-0.5, 0), (-3.0, None)])
def test_intervals_of_auroc_and_d_hold_the_truth(images, new_images, shift, decimals):
    auroc, ks = score_coverage(images, new_images, shift, 0.05, 400, decimals)
    assert auroc >= 0.92
    assert ks >= 0.95


@pytest.mark.parametrize("classes", [4, 200])
@pytest.mark.parametrize("moved", [0.0, 0.2])
def test_the_interval_of_the_class_mix_holds_the_truth(classes, moved):
    assert mix_coverage(500, 200, classes, moved, 200)[0] >= 0.95


def test_batches_alike_have_not_moved_and_many_foreign_images_are_a_move():
    assert verdicts(5000, 0.0, 0.0, 20, 20, 20)[NO_MOVE] == 1
    assert verdicts(5000, 0.3, 0.0, 20, 20, 20)[MOVED] == 1
    assert verdicts(50, 0.0, 0.0, 5, 5, 20)[CANNOT_SAY] == 1


def test_one_shard_of_a_reference_whose_shards_differ_has_hardly_ever_moved():
    assert verdicts(2000, 0.0, 0.5, 20, 1, 60)[MOVED] <= 0.1
