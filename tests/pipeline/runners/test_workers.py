"""How many workers a run has, and what follows."""

import os
from unittest import mock

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from odin_beam.pipeline.runners import workers


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        ([], 1),
        (["--direct_num_workers=4"], 1),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=3"], 3),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=0"], os.cpu_count()),
        (["--num_workers=5"], 5),
        (["--num_workers=5", "--max_num_workers=40"], 40),
        (["--runner=FlinkRunner", "--parallelism=6"], 6),
    ],
)
def test_the_number_of_workers_is_what_the_options_say(flags, count):
    assert workers.workers(PipelineOptions(flags)) == count


@pytest.mark.parametrize(
    ("runner", "here"),
    [
        (None, True),
        ("FnApiRunner", True),
        ("DirectRunner", True),
        ("apache_beam.runners.portability.fn_api_runner.FnApiRunner", True),
        ("DataflowRunner", False),
        ("dataflow", False),
        ("Dataflow", False),
        ("flink", False),
        ("FlinkRunner", False),
        ("spark", False),
        ("portable", False),
        ("apache_beam.runners.dataflow.DataflowRunner", False),
    ],
)
def test_a_runner_is_known_by_every_name_that_beam_understands(runner, here):
    assert workers.runs_here(PipelineOptions([] if runner is None else [f"--runner={runner}"])) == here


@pytest.mark.parametrize(
    ("flags", "before", "threads"),
    [
        ([], None, None),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=2"], None, "4"),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=20"], None, "1"),
        (["--direct_running_mode=multi_processing", "--direct_num_workers=2"], "3", "3"),
    ],
)
def test_processes_share_the_cores_unless_told_otherwise(monkeypatch, flags, before, threads):
    given = {} if before is None else {"TF_NUM_INTRAOP_THREADS": before}
    monkeypatch.setattr(workers.os, "cpu_count", lambda: 8)
    with mock.patch.dict(os.environ, given):
        if before is None:
            os.environ.pop("TF_NUM_INTRAOP_THREADS", None)
        workers.share_cores(PipelineOptions(flags))
        assert os.environ.get("TF_NUM_INTRAOP_THREADS") == threads


@pytest.mark.parametrize(
    ("images", "count", "message"),
    [
        ([100], 1, None),
        ([100] * 5, 2, "5 shards for 2 workers"),
        ([100] * 6, 2, None),
        ([100] * 11 + [1300], 2, "one shard has 1,300 of 2,400 images"),
        ([100] * 11 + [900], 2, None),
        ([], 4, None),
    ],
)
def test_few_or_uneven_shards_are_warned_of(images, count, message):
    warning = workers.imbalance(images, count)
    assert warning is None if message is None else warning.startswith(f"warning: {message}")
