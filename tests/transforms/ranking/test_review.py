"""What a sample's labels say: against other formulas, at the edges, and how often it holds."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom

from odin_beam.transforms.ranking.review import Stratum, draw_of, read_labels, review


@pytest.mark.parametrize(("labelled", "foreign"), [(50, 0), (50, 50), (50, 17), (1, 0), (1, 1)])
def test_the_share_is_clopper_and_pearson_s(labelled, foreign):
    low, high = Stratum(10**9, labelled, foreign).share(0.95)
    if foreign:
        assert low == pytest.approx(brentq(lambda p: binom.sf(foreign - 1, labelled, p) - 0.025, 1e-12, 1), rel=1e-6)
    else:
        assert low == 0
    if foreign < labelled:
        assert high == pytest.approx(brentq(lambda p: binom.cdf(foreign, labelled, p) - 0.025, 0, 1 - 1e-12), rel=1e-6)
    else:
        assert high == 1


def test_what_is_labelled_is_known():
    assert Stratum(40, 40, 7).share(0.95) == (7 / 40, 7 / 40)
    low, high = Stratum(40, 39, 7).share(0.95)
    assert 7 / 40 <= low <= high <= 8 / 40
    assert Stratum(40, 0, 0).share(0.95) == (0, 1)
    assert Stratum(0, 0, 0).share(0.95) == (0, 1)


def test_estimates_are_the_weighted_counts():
    found = review(Stratum(1000, 50, 30), Stratum(9000, 90, 3))
    assert found.precision.value == pytest.approx(0.6)
    assert found.prevalence.value == pytest.approx((600 + 300) / 10_000)
    assert found.recall.value == pytest.approx(600 / 900)
    found_low, found_high = Stratum(1000, 50, 30).share(0.975)
    missed_low, missed_high = Stratum(9000, 90, 3).share(0.975)
    assert found.prevalence.low == pytest.approx((1000 * found_low + 9000 * missed_low) / 10_000)
    assert found.prevalence.high == pytest.approx((1000 * found_high + 9000 * missed_high) / 10_000)
    assert found.recall.low == pytest.approx(1000 * found_low / (1000 * found_low + 9000 * missed_high))
    assert found.recall.high == pytest.approx(1000 * found_high / (1000 * found_high + 9000 * missed_low))


def test_without_labels_or_foreign_images_nothing_is_claimed():
    empty = review(Stratum(10, 0, 0), Stratum(90, 0, 0))
    assert empty.precision.value is empty.recall.value is empty.prevalence.value is None
    assert (empty.recall.low, empty.recall.high) == (0, 1)
    none = review(Stratum(10, 10, 0), Stratum(90, 90, 0))
    assert none.prevalence.value == 0
    assert none.recall.value is None
    assert (none.recall.low, none.recall.high) == (0, 1)
    nothing = review(Stratum(0, 0, 0), Stratum(0, 0, 0))
    assert nothing.prevalence.value == 0
    assert not any(math.isnan(end) for end in (nothing.recall.low, nothing.recall.high))


def test_what_is_missing_is_more_labels():
    found = review(Stratum(1000, 100, 80), Stratum(99_000, 100, 0))
    assert found.recall.high - found.recall.low > 0.5
    assert found.more > 1000
    after = review(Stratum(1000, 100, 80), Stratum(99_000, 100 + found.more, 0))
    assert after.recall.high - after.recall.low <= 0.2
    assert after.more == 0
    one_less = review(Stratum(1000, 100, 80), Stratum(99_000, 100 + found.more - 1, 0))
    assert one_less.recall.high - one_less.recall.low > 0.2
    # Nothing known of the flagged ones: no label of others helps.
    assert review(Stratum(1000, 0, 0), Stratum(99_000, 100, 0)).more is None


@pytest.mark.parametrize(("images", "flagged", "share"), [(100, 0.1, 0.05), (10_000, 0.06, 0.02), (10**6, 0.06, 0.3)])
def test_the_intervals_hold_in_95_percent_of_samples(images, flagged, share):
    rng, repeats, held = np.random.default_rng(0), 400, np.zeros(3)
    flagged_images = round(images * flagged)
    foreign = round(images * share)
    found = min(flagged_images, round(0.7 * foreign))
    missed = foreign - found
    labelled = min(50, flagged_images)
    for _ in range(repeats):
        a = Stratum(flagged_images, labelled, int(rng.hypergeometric(found, flagged_images - found, labelled)))
        rest = images - flagged_images
        b = Stratum(rest, 50, int(rng.hypergeometric(missed, rest - missed, 50)))
        said = review(a, b)
        for place, (estimate, truth) in enumerate(
            (
                (said.precision, found / flagged_images),
                (said.prevalence, foreign / images),
                (said.recall, found / foreign),
            )
        ):
            held[place] += estimate.low - 1e-12 <= truth <= estimate.high + 1e-12
    # 95 % less 2.8 standard deviations.
    assert (held / repeats >= 0.92).all()


HEADER = "foreign,source,shard,index,draw\n"


@pytest.mark.parametrize(
    "data",
    [
        (HEADER + "yes,s,/a,0,d\nNO,s,/a,1,d\n,s,/a,2,d\n").encode(),
        ("\ufeff" + HEADER + "y,s,/a,0,d\r\nn ,s,/a,1,d\r\n,s,/a,2,d\r\n").encode(),
        (HEADER + "1,s,/a,0,d\n0,s,/a,1,d\n,s,/a,2,d\n").replace(",", ";").encode("utf-16"),
        (HEADER + "true,s,/a,0,d\nfalse,s,/a,1,d\n,s,/a,2,d\n").replace(",", "\t").encode(),
        b"Index,Shard,Foreign,Draw\n0,/a,yes,d\n1,/a,no,d\n2,/a,,d\n",
    ],
)
def test_labels_are_read_as_spreadsheets_leave_them(tmp_path, data):
    (tmp_path / "l.csv").write_bytes(data)
    labels = read_labels([str(tmp_path / "l.csv")])
    assert labels.answers == {("/a", 0): True, ("/a", 1): False, ("/a", 2): None}
    assert labels.draws == {"d"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "no column shard"),
        ("shard,index\n/a,1\n", "no column foreign, so it is not a table of a random sample"),
        ("shard,index,foreign\n/a,1,yes\n", "no column draw"),
        (HEADER + "maybe,s,/a,0,d\n", "row 2: foreign is 'maybe', neither yes nor no"),
        (HEADER + "yes,s,/a,x,d\n", "row 2: index is 'x'"),
        (HEADER + f"yes,s,/a,{10**20},d\n", "row 2: index is '1000"),
        (HEADER + "yes,s\n", "row 2: index is None"),
        (HEADER + "yes,s,/a,0,d\nno,s,/a,0,d\n", "row 3: this image has another answer further up"),
        ("", "no column shard"),
    ],
)
def test_what_is_no_table_of_labels_is_said_in_words(tmp_path, text, words):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        read_labels([str(tmp_path / "l.csv")])


def test_several_tables_are_one(tmp_path):
    (tmp_path / "a.csv").write_text(HEADER + "yes,s,/a,0,d\nno,s,/a,1,d\n")
    (tmp_path / "b.csv").write_text(HEADER + ",s,/a,0,d\n,s,/a,1,d\nno,s,/a,2,e\n")
    labels = read_labels([str(tmp_path / name) for name in ("a.csv", "b.csv")])
    assert labels.answers == {("/a", 0): True, ("/a", 1): False, ("/a", 2): False}
    assert labels.draws == {"d", "e"}


def test_a_draw_is_that_of_its_flags_and_sources():
    flags = {
        **{"scores_state": "s", "detector": "gen", "per_class": False, "rule": {"tpr": 0.95, "threshold": 1.0}},
        "calibration": {"path": "/a", "images": 9, "sources": ["x"]},
    }
    draw = draw_of(flags, ["a", "b"])
    assert draw == draw_of(flags | {"calibration": flags["calibration"] | {"path": "/moved"}}, ["b", "a"])
    others = [
        *(flags | {"rule": {"tpr": 0.9, "threshold": 1.0}}, flags | {"detector": "msp"}, flags | {"scores_state": "t"}),
        flags | {"calibration": flags["calibration"] | {"labels": "l"}},
    ]
    assert len({draw, draw_of(flags, ["a"]), *(draw_of(other, ["a", "b"]) for other in others)}) == 6
