"""What `flag` says at its end."""

import numpy as np

from odin_beam.pipeline.show.flags_text import flags_text
from odin_beam.transforms.calibration import flags_summary
from odin_beam.transforms.calibration.conformal import CalibrationScores
from odin_beam.transforms.calibration.flag_rule import FlagRule
from odin_beam.transforms.calibration.flags_summary import Discoveries, FlagCounts, FlagFacts
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.shards.contents.tfrecords import TFRecords
from odin_beam.transforms.shards.shard import Shard

SCORES = CalibrationScores.of(ScoreHistogram.of(np.arange(1000.0)))


def test_several_archives_get_a_verdict_each_and_together():
    roles = {"a": "input", "b": "input", "c": "input"}
    counts = {"a": FlagCounts(1, 213, 0, 60), "b": FlagCounts(1, 213, 0, 12), "c": FlagCounts(1, 213, 0, 1)}
    facts = FlagFacts({"images": 1000}, per_class=False, launched=0.0)
    said = flags_summary.flags_summary(FlagRule("msp", SCORES, {}, tpr=0.95), roles, facts, "s", counts, [], None)
    assert [said["sources"][name]["verdict"] for name in "abc"] == ["more", "as_expected", "fewer"]
    assert said["sources"]["a"]["unlike_at_least"] == 46
    together = said["together"]
    assert (together["sources"], together["images"], together["flagged"]) == (["a", "b", "c"], 639, 73)
    assert together["verdict"] == "more"
    text = flags_text(said | {"calibration": {"images": 1000, "sources": ["validation"]}})
    assert text.endswith(
        "a: 60 of 213 flagged, 5 to 18 expected if all were like the calibration images: more than chance: at least "
        "46 are unlike them\n"
        "b: 12 of 213 flagged, 5 to 18 expected if all were like the calibration images: no evidence\n"
        "c: 1 of 213 flagged, 5 to 18 expected if all were like the calibration images: fewer than expected: not "
        "drawn like the calibration images, but not by low scores\n"
        f"all inputs together: 73 of 639 flagged, {together['false_flags_low']} to {together['false_flags_high']} "
        "expected if all were like the calibration images: more than chance: at least "
        f"{together['unlike_at_least']} are unlike them"
    )


def test_what_clustered_flags_may_mean_is_said_in_one_line():
    parts = [FlagCounts(0, 200, 0, flagged).of_one_shard() for flagged in (0, 0, 60, 0, 0)]
    facts, rule = FlagFacts({"images": 1000}, launched=0.0), FlagRule("msp", SCORES, {}, tpr=0.95)
    total = flags_summary.add_up_flags(parts)
    said = flags_summary.flags_summary(rule, {"a": "input"}, facts, "s", {"a": total}, [], None)
    assert said["sources"]["a"]["clustered"]
    assert said["together"] is None
    text = flags_text(said | {"calibration": {"images": 1000, "sources": ["validation"]}})
    assert "flags cluster in shards (design effect 63.8)" in text.splitlines()[-1]
    assert "if by near-duplicates, 1,000 images count as 15, with " in text.splitlines()[-1]


def test_names_of_a_folder_cannot_move_the_cursor():
    facts, rule = FlagFacts({"images": 1000}, launched=0.0), FlagRule("msp", SCORES, {}, tpr=0.95)
    failed, counts = (
        [(Shard("a", "input", "/x\x1b[2J.tfrecord", 9, 0.0, "x.parquet", TFRecords()), "not scored\r")],
        {"a": FlagCounts(1, 213, 0, 60)},
    )
    said = flags_summary.flags_summary(rule, {"a": "input"}, facts, "s", counts, failed, None)
    text = flags_text(said | {"calibration": {"images": 1000, "sources": ["\x1b[2Jcats"]}})
    assert "/x\\x1b[2J.tfrecord: not scored\\r" in text
    assert all(line.isprintable() for line in text.splitlines())


def test_a_false_discovery_rate_has_a_verdict_of_its_own():
    rule, roles = FlagRule("msp", SCORES, {}, fdr=0.1), {"a": "input", "b": "input"}
    facts = FlagFacts({"images": 1000, "sources": ["validation"]}, launched=0.0)
    for flagged, words in ((30, "more than chance: if all"), (0, "no evidence at a false discovery rate of 0.1")):
        counts = {"a": FlagCounts(1, 100, 0, flagged), "b": FlagCounts(1, 100, 0, 0)}
        found = Discoveries(200, 0.01 if flagged else 0.0)
        said = flags_summary.flags_summary(rule, roles, facts, "s", counts, [], found)
        assert said["sources"]["a"]["verdict"] is None
        last = flags_text(said).splitlines()[-1]
        assert last.startswith(f"a, b: {flagged} of 200 flagged: {words}")
