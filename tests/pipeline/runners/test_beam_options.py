"""Beam's own options, where a job cannot run with them."""

import pytest

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags import command_line
from tests.helpers.samples import DEMO_DATA

CHECK = [f"--model={DEMO_DATA}/classifier.keras"]


@pytest.mark.parametrize("runner", ["DataflowRunner", "dataflow", "flink"])
def test_check_runs_on_this_machine_alone(runner):
    with pytest.raises(UsageError, match="check looks at a few images on this machine: leave --runner out"):
        command_line.parse("check", [*CHECK, f"--runner={runner}"])


def test_check_takes_a_local_runner():
    assert command_line.parse("check", [*CHECK, "--runner=DirectRunner"]).beam == ("--runner=DirectRunner",)


def test_an_unknown_flag_names_the_closest_of_the_job():
    with pytest.raises(UsageError, match="unknown flag --in_distributions; did you mean --in_distribution"):
        command_line.parse("check", [*CHECK, "--in_distributions=x"])
