"""What the flags of `score` mean beside a calibration, and what is remembered of them."""

from types import SimpleNamespace

import pytest

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags import command_line, score
from odin_beam.transforms.detectors.odin_settings import OdinSettings
from tests.helpers.samples import DEMO_DATA

SCORE = [f"--model={DEMO_DATA}/classifier.keras", "--output=/nowhere", "--input=noise:uniform"]
CALIBRATION = SimpleNamespace(
    settings=SimpleNamespace(odin=OdinSettings(10.0, 0.01), precision="mixed", model_factory=None)
)


def calibrated(monkeypatch, *flags: str) -> dict:
    arguments = command_line.parse("score", [*SCORE, "--calibration=c.json", *flags]).arguments
    monkeypatch.setattr(score, "calibration_given", lambda given: CALIBRATION)
    return score._calibrated(arguments)


@pytest.mark.parametrize("flags", [(), ("--precision=mixed",), ("--temperature=10",)])
def test_what_is_not_given_comes_from_the_calibration(monkeypatch, flags):
    assert calibrated(monkeypatch, *flags) == {"odin": OdinSettings(10.0, 0.01), "precision": "mixed"}


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--precision=float32", "--precision float32 contradicts --calibration, which has mixed"),
        ("--temperature=20", "--temperature 20 contradicts --calibration, which has 10"),
        ("--epsilon=0", "--epsilon 0 contradicts --calibration, which has 0.01"),
    ],
)
def test_what_is_given_must_agree_with_the_calibration(monkeypatch, flag, message):
    with pytest.raises(UsageError, match=message):
        calibrated(monkeypatch, flag)


def test_a_run_remembers_its_own_command_whatever_the_process_was_started_with(monkeypatch):
    monkeypatch.setattr("sys.argv", ["pytest", "--something"])
    assert command_line.parse("score", SCORE).arguments.command == ("score", *SCORE)
