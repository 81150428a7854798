"""What `compare` says at its end."""

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
    own = {"unlike_at_least": 40, "verdict": None}
    alike = comparison("no relevant move", [detector("gen", "no relevant move")], unlike=own)
    assert verdict_sentence(alike) == (
        "no relevant move: new is like old by 1 of 1 detector, though at least 40 images are not"
    )


def test_the_next_command_can_be_pasted():
    text = compare_text(comparison("moved", [detector("gen", "moved")]))
    assert text.endswith("next: odin-beam top --scores '/runs/a b' --source new")
    assert "the reference has one shard only" in text


def test_what_a_file_says_cannot_move_the_cursor():
    row = {"id": "a\x1b[2J" + "x" * 500, "p_value": 0.1, "score": 1.0, "prediction": 3, "class_name": None}
    (line,) = [line for line in compare_text(comparison("moved", [], lowest=[row])).splitlines() if "class 3" in line]
    assert line.isprintable()
    assert len(line) < 160


def test_few_shards_are_said_to_be_few():
    few = {"count": 5, "enough": False}
    text = compare_text(comparison("moved", [detector("gen", "moved")], shards_against_rest=few))
    assert "the largest difference of 5 shards of the reference" in text
    assert "19 or more would tell" in text
