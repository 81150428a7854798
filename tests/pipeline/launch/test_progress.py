"""Progress in a log: whole lines, and no say in how the job ends."""

import threading

import pytest

from odin_beam.pipeline.launch import progress


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(progress, "_LOG_SECONDS", 0.001)


def test_a_log_gets_plain_lines(capsys):
    shown = threading.Event()
    states = iter([(25, "2 of 8 shards"), (50, "4 of 8 shards")])

    def state():
        try:
            return next(states)
        except StopIteration:
            shown.set()
            raise

    with progress.show_progress("scoring", 100, "B", state):
        assert shown.wait(timeout=30)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["scoring:  25%", "scoring:  50%"]
    assert lines[0].endswith("2 of 8 shards")


def test_an_error_of_the_display_does_not_touch_the_job():
    called = threading.Event()

    def state():
        called.set()
        raise OSError("cannot list")

    with progress.show_progress("scoring", 100, "B", state):
        assert called.wait(timeout=30)
        result = 42
    assert result == 42


def test_an_error_of_the_job_passes_through():
    with pytest.raises(KeyError), progress.show_progress("scoring", 0, "B", lambda: (0, "")):
        raise KeyError
