"""Total variation of predicted classes, against all permutations."""

import itertools

import numpy as np
import pytest

from odin_beam.transforms.comparison.class_mix import changed_most, class_mix, mix_against_rest, mix_effect


def total_variation(reference, new):
    classes = set(reference) | set(new)
    shares = [abs(list(reference).count(c) / len(reference) - list(new).count(c) / len(new)) for c in classes]
    return sum(shares) / 2


@pytest.mark.parametrize("images", [([0, 0, 1], [0, 1, 2, 2]), ([0], [1, 1, 1]), ([0, 0], [0, 0]), ([3], [3])])
def test_the_mean_is_that_of_all_permutations(images):
    reference, new = images
    everything = reference + new
    dealt = []
    for places in itertools.combinations(range(len(everything)), len(reference)):
        rest = [image for i, image in enumerate(everything) if i not in places]
        dealt.append(total_variation([everything[i] for i in places], rest))
    mix = class_mix(*({c: part.count(c) for c in part} for part in images))
    assert mix.total_variation == pytest.approx(total_variation(reference, new), abs=1e-12)
    assert mix.expected == pytest.approx(np.mean(dealt), abs=1e-12)


def test_the_mean_is_that_of_drawn_permutations_of_many_classes():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 90, 300)
    drawn = rng.multivariate_hypergeometric(counts, 2000, 4000)
    rest = counts - drawn
    mean = (np.abs(drawn / 2000 - rest / rest[0].sum()).sum(axis=1) / 2).mean()
    mix = class_mix(dict(enumerate(drawn[0].tolist())), dict(enumerate(rest[0].tolist())))
    assert mix.expected == pytest.approx(mean, rel=2e-3)
    assert abs(mix.excess) < 0.02


def test_a_billion_images_lose_no_digit_that_counts():
    half = {0: 10**9, 1: 10**9}
    # The mean absolute deviation of a normal distribution, sqrt(2 / pi) standard deviations.
    assert class_mix(half, half).expected == pytest.approx(np.sqrt(2 / np.pi) / np.sqrt(2 * 2 * 10**9), rel=1e-3)


def test_the_interval_is_within_0_and_1_and_gets_narrow():
    few, many = (mix_effect({0: n, 1: n}, {0: 2 * n}, 0.05) for n in (1, 10**6))
    assert (few.low, few.high) == (0, 1)
    assert 0.498 < many.low < many.value < many.high < 0.502


def test_as_many_images_as_it_asks_for_are_enough():
    few = mix_effect({c: 5 for c in range(20)}, {c: 10 for c in range(20)}, 0.05)
    assert few.high > 0.1
    needed = few.images_needed // 20
    enough = mix_effect({c: needed for c in range(20)}, {c: needed for c in range(20)}, 0.05)
    # Two equal mixes have a total variation of 0, which is less than chance.
    assert enough.high + class_mix({c: needed for c in range(20)}, {c: needed for c in range(20)}).expected < 0.101


def test_a_shard_is_compared_with_all_others():
    assert mix_against_rest({0: 10, 1: 10}, {1: 10}) == pytest.approx(class_mix({0: 10}, {1: 10}).excess)
    assert mix_against_rest({0: 10}, {0: 10}) is None


def test_the_classes_that_changed_most_come_first():
    rows = changed_most(dict.fromkeys(range(10), 10), {**dict.fromkeys(range(10), 10), 7: 40, 11: 5})
    assert [row["class"] for row in rows][:2] == [7, 11]
    assert len(rows) == 5
    assert rows[1] == {"class": 11, "reference_share": 0, "new_share": 5 / 135}
