"""What `compare` says at its end."""

import pytest

from odin_beam.pipeline.show.compare_text import compare_text, verdict_sentence

EFFECT = {"value": 0.5, "low": 0.4, "high": 0.6, "shards": None}
BATCH = {"scores": "/runs/a b", "shards": 1, "images": 20}


def part(verdict, reason=None, images_needed=None):
    return {"verdict": verdict, "reason": reason, "images_needed": images_needed}


def detector(name, *verdict):
    return {"detector": name, **part(*verdict), "auroc": EFFECT, "ks": EFFECT}


def comparison(verdict, detectors, classes=None, **changes):
    mix = {**part(*classes), "total_variation": EFFECT, "changed_most": []} if classes else None
    return {
        "verdict": verdict,
        "reference": {"source": "old", **BATCH},
        "new": {"source": "new", **BATCH},
        "shards_against_rest": {"count": 0, "enough": False},
        "detectors": detectors,
        "without_scores": [],
        "classes": mix,
        "chosen": "gen",
        "unlike": None,
        "lowest": [],
        "failed_shards": [],
    } | changes


def unlike(verdict, **changes):
    figures = {"images": 500, "without_score": 0, "flagged": 60, "false_flags_low": 14, "false_flags_high": 41}
    return {**figures, "unlike_at_least": 0, "clustered": None, "verdict": verdict, **changes}


def test_a_sentence_says_what_the_verdict_rests_on():
    mixed = [detector("msp", "moved"), detector("gen", "cannot say", "images", 900)]
    assert verdict_sentence(comparison("moved", mixed, ("no relevant move",))) == (
        "moved: new differs from old by 1 of 2 detectors"
    )
    assert verdict_sentence(comparison("moved", mixed[1:], ("moved",))) == (
        "moved: new differs from old by the mix of predicted classes"
    )
    assert verdict_sentence(comparison("cannot say", mixed[1:], ("cannot say", "images", 2000))) == (
        "cannot say whether new differs from old, by 1 of 1 detector and by the mix of predicted classes: about 2,000 "
        "images of each would tell"
    )
    open_ones = [detector("msp", "cannot say", "images", None), detector("gen", "cannot say", "shards")]
    assert verdict_sentence(comparison("cannot say", open_ones)) == (
        "cannot say whether new differs from old, by 2 of 2 detectors: they are too close to the limit for any number "
        "of images to tell; the reference's own shards differ as much from each other: more shards of it, or larger "
        "ones, would help"
    )


def test_few_foreign_images_in_a_batch_that_has_not_moved_are_said_first():
    for least, words in ((40, ", though at least 40 images are not"), (1, ", though at least 1 image is not")):
        own = unlike("more", unlike_at_least=least)
        alike = comparison("no relevant move", [detector("gen", "no relevant move")], unlike=own)
        assert verdict_sentence(alike) == f"no relevant move: new is like old by 1 of 1 detector{words}"
    alike["unlike"] = unlike("as_expected")
    assert verdict_sentence(alike) == "no relevant move: new is like old by 1 of 1 detector"


@pytest.mark.parametrize(
    ("own", "words"),
    [
        (unlike("more", flagged=60, unlike_at_least=23), "more than chance: at least 23 are unlike it"),
        (unlike("as_expected", flagged=30), "no evidence"),
        (unlike("fewer", flagged=1), "fewer than expected: not drawn like the reference, but not by low scores"),
    ],
)
def test_images_below_the_quantile_get_the_verdict_of_flags(own, words):
    line = compare_text(comparison("moved", [detector("gen", "moved")], unlike=own)).split("\n\n")[2]
    assert line == (
        f"gen: {own['flagged']} of 500 new images below the reference's 5 % quantile, 14 to 41 expected if all were "
        f"like the reference: {words}"
    )


@pytest.mark.parametrize(("least", "words"), [(0, "0 to 250 expected"), (8, "0 to 250 expected and at least 8 unlike")])
def test_a_cluster_below_the_quantile_has_its_own_interval(least, words):
    clustered = {"false_flags_low": 0, "false_flags_high": 250, "unlike_at_least": least}
    own = unlike("more", unlike_at_least=8, clustered=clustered, design_effect=9.0)
    line = compare_text(comparison("moved", [], unlike=own)).split("\n\n")[2].splitlines()[1]
    assert line.startswith(f"  they cluster in shards (design effect 9.0): if by near-duplicates, {words}")


def test_the_next_command_can_be_pasted():
    text = compare_text(comparison("moved", [detector("gen", "moved")]))
    assert text.endswith("next: odin-beam top --scores '/runs/a b' --source new")
    assert "the reference has one shard only" in text


def test_what_a_file_says_cannot_move_the_cursor():
    row = {"id": "a\x1b[2J" + "x" * 500, "p_value": 0.1, "score": 1.0, "prediction": 3, "class_name": None}
    (line,) = [line for line in compare_text(comparison("moved", [], lowest=[row])).splitlines() if "class 3" in line]
    assert line.isprintable()
    assert len(line) < 160


def test_names_of_a_folder_cannot_move_the_cursor():
    batch = {"source": "o\x1b[2Jld", "scores": "/runs/\x9bx", "shards": 1, "images": 0}
    failed = [{"path": "/a\nb.tfrecord", "reason": "\x1b[2J"}]
    hostile = {"reference": batch, "new": batch, "failed_shards": failed, "without_scores": ["\r"]}
    for found in (
        comparison("moved", [detector("gen", "moved")], **hostile),
        comparison("cannot say", [], **hostile),
    ):
        text = compare_text(found)
        assert all(line.isprintable() for line in text.splitlines())
        assert "o\\x1b[2Jld" in verdict_sentence(found)
        assert "  /a\\nb.tfrecord: \\x1b[2J" in text.splitlines()


def test_the_longest_name_keeps_its_distance():
    rows = [detector("gen_mds_unit", "moved"), detector("neg_entropy", "moved")]
    lines = compare_text(comparison("moved", rows)).splitlines()
    title, *shown = [line for line in lines if line.startswith(("  detector", "  gen_mds_unit", "  neg_entropy"))]
    assert shown[0].startswith("  gen_mds_unit moved ")
    assert shown[1].startswith("  neg_entropy  moved ")
    assert title.index("verdict") == shown[0].index("moved") == shown[1].index("moved")
    short = compare_text(comparison("moved", rows[1:])).splitlines()
    assert any(line.startswith("  neg_entropy moved ") for line in short)


def test_few_shards_are_said_to_be_few():
    few = {"count": 5, "enough": False}
    text = compare_text(comparison("moved", [detector("gen", "moved")], shards_against_rest=few))
    assert "the largest difference of 5 shards of the reference" in text
    assert "19 or more would tell" in text
