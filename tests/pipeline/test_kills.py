"""Runs that are killed, interrupted, or that meet on one output; `kill_runs.py` does the first at length."""

import os
import re
import shlex
import signal
import time

import pytest

from odin_beam.pipeline.main import main
from tests.by_hand import kill_runs
from tests.by_hand.kill_runs import PATIENCE_SECONDS, Runs


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Four shards of 125 images of Fashion-MNIST, and four of MNIST."""
    folder = tmp_path_factory.mktemp("archive")
    for name, pattern in (("fashion", "fashion_mnist-0000[01]-*"), ("mnist", "mnist-0000[01]-*")):
        images = f"--images={kill_runs.DATA / pattern}"
        assert main(["ingest", images, f"--output={folder / name}", "--shards=4"]) == 0
    return folder


@pytest.fixture(scope="module")
def expected(archive, tmp_path_factory):
    """Rows and metrics of a run that nobody disturbs."""
    runs = Runs(archive, tmp_path_factory.mktemp("expected") / "out", "in_memory")
    process = runs.start()
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    return runs.rows(), (runs.output / "metrics.json").read_text()


@pytest.fixture
def runs(archive, tmp_path, request):
    runs = Runs(archive, tmp_path / "out", request.param)
    yield runs
    runs.end()


def started(runs):
    """A run that has committed a shard, and has more to do."""
    process = runs.start()
    end = time.monotonic() + PATIENCE_SECONDS
    while not runs.committed():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


def finish(runs, expected):
    before = runs.committed()
    process = runs.start()
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    after = runs.committed()
    assert all(after[name] == mark for name, mark in before.items())
    assert kill_runs.check_end(runs, *expected) == (0, 0)


def check_stopped(process):
    """The launcher of a worker that was killed has ended, and says so."""
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1, said
    last = said.strip().splitlines()[-1]
    assert re.match(r"odin-beam score: stopped: worker process \d+ was killed by SIGKILL \(out of memory\?\);", last)
    assert "Traceback" not in said
    assert not kill_runs.workers_of(process.pid)


@pytest.mark.parametrize("runs", kill_runs.MODES, indirect=True)
def test_after_a_kill_of_the_launcher_a_rerun_does_the_rest(runs, expected):
    process = started(runs)
    process.kill()
    process.stdout.close()
    process.wait(PATIENCE_SECONDS)
    end = time.monotonic() + PATIENCE_SECONDS
    while kill_runs.workers_of(process.pid):
        assert time.monotonic() < end
    assert len(runs.committed()) < 8
    finish(runs, expected)


@pytest.mark.parametrize("runs", ["multi_processing"], indirect=True)
def test_a_kill_of_a_worker_stops_the_run_which_can_be_resumed(runs, expected):
    process = started(runs)
    os.kill(kill_runs.workers_of(process.pid)[0], signal.SIGKILL)
    check_stopped(process)
    finish(runs, expected)


@pytest.mark.parametrize("runs", ["multi_processing"], indirect=True)
def test_a_worker_that_dies_while_it_starts_stops_the_run(runs):
    process = runs.start()
    end = time.monotonic() + PATIENCE_SECONDS
    while not (workers := kill_runs.workers_of(process.pid)):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < end
    os.kill(workers[0], signal.SIGKILL)
    check_stopped(process)


@pytest.mark.parametrize("runs", kill_runs.MODES, indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_one_line_with_the_command_to_go_on(runs, number):
    process = started(runs)
    # As a terminal sends it to all of them, and a cluster manager to the launcher.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + number, said
    assert said.strip().splitlines()[-1] == (
        f"odin-beam score: interrupted; to go on: odin-beam {shlex.join(process.args[3:])}"
    )
    assert "Traceback" not in said
    assert not kill_runs.workers_of(process.pid)
    assert runs.committed()


@pytest.mark.parametrize("runs", ["in_memory"], indirect=True)
def test_two_runs_on_one_output_at_once_do_no_harm(runs, expected):
    both = [runs.start(), runs.start()]
    codes = [(process.communicate(timeout=PATIENCE_SECONDS)[0], process.returncode) for process in both]
    assert [code for _, code in codes] == [0, 0], codes
    assert kill_runs.check_end(runs, *expected) == (0, 0)
