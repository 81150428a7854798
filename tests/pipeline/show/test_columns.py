"""Tables whose first column is a detector's name."""

import pytest

from odin_beam.pipeline.show.columns import names_width
from odin_beam.pipeline.show.metrics_table import FIGURES, metrics_table, summary_text


def pair(detector, **figures):
    names = {"in_distribution": "cats", "in_count": 9, "out_distribution": "dogs", "out_count": 8, "exact": True}
    return {"detector": detector, **names, **dict.fromkeys(FIGURES, 0.5), **figures}


@pytest.mark.parametrize(
    ("names", "width"), [([], 12), (["msp"], 12), (["neg_entropy"], 12), (["msp", "gen_mds_unit"], 13)]
)
def test_a_column_of_names_has_room_behind_the_longest(names, width):
    assert names_width(iter(names)) == width


def test_figures_of_a_long_name_stand_below_their_titles():
    first = next(iter(FIGURES))
    rows = [pair("gen_mds_unit", **{first: 1.0}), pair("msp", **{first: 1.0})]
    *_, title, long, short, _, _ = metrics_table({"in_distribution": {}, "pairs": rows}).splitlines()
    assert long.startswith("  gen_mds_unit ")
    end = title.index(FIGURES[first].short) + len(FIGURES[first].short)
    assert long[:end].endswith(" 100.00")
    assert short[:end].endswith(" 100.00")
    assert len(title) == len(long) == len(short)


def test_names_of_a_folder_cannot_move_the_cursor():
    known = {"in_distribution": {"c\x1b[2J": {"count": 1, "accuracy": None}}, "pairs": []}
    assert metrics_table(known) == "c\\x1b[2J: 1 in-distribution images, no labels"
    failed = [{"path": "/a\nb", "reason": "\x9b"}]
    summary = {"sources": {}, "calibrated": True, "failed_shards": failed, "orphaned_scores": ["\r"]}
    assert all(line.isprintable() for line in summary_text(summary).splitlines())
    assert "  /a\\nb: \\x9b" in summary_text(summary).splitlines()
