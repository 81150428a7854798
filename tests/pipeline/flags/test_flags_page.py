"""docs/flags.md tells of every flag."""

import re
from pathlib import Path

import pytest

from odin_beam.pipeline.flags import command_line
from odin_beam.transforms.detectors.registry import ALL

PAGE = (Path(__file__).resolve().parents[3] / "docs/flags.md").read_text()


@pytest.mark.parametrize("job", command_line.names())
def test_the_page_has_every_flag_of_every_job(job):
    assert f"`{job}`" in PAGE
    flags = [max(action.option_strings, key=len) for action in command_line.flags_of(job)]
    assert [flag for flag in flags if not re.search(rf"`{flag}[` ,=]", PAGE)] == []


def test_the_page_has_no_flag_that_is_gone():
    actions = [action for job in command_line.names() for action in command_line.flags_of(job)]
    known = {word for action in actions for word in action.option_strings}
    # Of the tables, the first cells; Beam's own flags have a section of their own.
    rows = [line.split("|")[1] for line in PAGE[: PAGE.index("## Dataflow")].splitlines() if line.startswith("| `--")]
    named = {flag for cell in rows for flag in re.findall(r"`(--\w+)", cell)}
    assert len(named) > 60
    assert named <= known


def test_the_page_has_every_detector():
    (row,) = [line for line in PAGE.splitlines() if line.startswith("| `--detectors`")]
    named = re.findall(r"`(\w+)`", row.split("|")[3].replace("`score`", "").replace("`--reference`", ""))
    assert sorted(named) == sorted(ALL)
