"""What effects with intervals say together."""

import math

import pytest

from odin_beam.transforms.comparison.verdicts import (
    CANNOT_SAY,
    MOVED,
    NO_MOVE,
    Effect,
    Verdict,
    judge,
    shard_limit,
    together,
)


def auroc(value, half, shards=None):
    return Effect(value, value - half, value + half, 0.5, 0.05, 1.0, shards)


def ks(value, half, shards=None):
    return Effect(value, max(0, value - half), value + half, 0.0, 0.1, 4.0, shards)


SMALL = ks(0.03, 0.02)


@pytest.mark.parametrize(
    ("effects", "verdict"),
    [
        ([auroc(0.6, 0.04), SMALL], Verdict(MOVED)),
        ([auroc(0.4, 0.04), SMALL], Verdict(MOVED)),
        ([auroc(0.5, 0.04), ks(0.2, 0.05)], Verdict(MOVED)),
        ([auroc(0.5, 0.04), SMALL], Verdict(NO_MOVE)),
        ([auroc(0.6, 0.04, 0.055), SMALL], Verdict(MOVED)),
        # Its own shards differ as much.
        ([auroc(0.6, 0.04, 0.07), SMALL], Verdict(CANNOT_SAY, "shards")),
        # One measure is enough.
        ([auroc(0.6, 0.04, 0.07), ks(0.2, 0.05, 0.14)], Verdict(MOVED)),
        # Either measure may leave it open: by 1 / 0.05^2 and 4 / 0.05^2 images.
        ([auroc(0.6, 0.06), SMALL], Verdict(CANNOT_SAY, "images", 400)),
        ([auroc(0.5, 0.06), ks(0.05, 0.04)], Verdict(CANNOT_SAY, "images", 1600)),
        ([auroc(0.5, 0.04), ks(0.05, 0.06)], Verdict(CANNOT_SAY, "images", 1600)),
        ([auroc(0.55, 0.01), ks(0.1, 0.01)], Verdict(CANNOT_SAY, "images", None)),
    ],
)
def test_the_verdict_follows_the_intervals(effects, verdict):
    assert judge(effects) == verdict


def test_images_needed_have_two_digits():
    assert [Effect(0.0, 0, 1, 0.0, 0.1, width).images_needed for width in (0.001, 0.0712, 1.2345, 123.0, 1e8)] == [
        1,
        8,
        130,
        13_000,
        None,
    ]


def test_unknown_width_is_no_advice():
    assert judge([Effect(1.0, 0.0, 1.0, 0.5, 0.05, math.inf)]) == Verdict(CANNOT_SAY, "images", None)


@pytest.mark.parametrize(
    ("verdicts", "all_together"),
    [
        ([], CANNOT_SAY),
        ([NO_MOVE, NO_MOVE], NO_MOVE),
        ([NO_MOVE, CANNOT_SAY], CANNOT_SAY),
        ([CANNOT_SAY, MOVED, NO_MOVE], MOVED),
    ],
)
def test_one_move_is_a_move_and_no_move_takes_all(verdicts, all_together):
    assert together(verdicts) == all_together


@pytest.mark.parametrize(("shards", "rank"), [(1, 1), (5, 5), (18, 18), (19, 19), (20, 20), (39, 38), (200, 191)])
def test_a_shard_like_the_others_exceeds_the_limit_in_5_percent(shards, rank):
    assert shard_limit([value / 1000 for value in range(shards, 0, -1)]) == rank / 1000


def test_no_shards_give_no_limit():
    assert shard_limit([]) is None
