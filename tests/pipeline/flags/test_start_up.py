"""What is wrong with a command shows before anything slow is imported."""

import subprocess
import sys

import pytest

from odin_beam.pipeline.flags import command_line
from odin_beam.transforms import __version__
from tests.helpers.samples import DEMO_DATA, ROOT

# Prints what was imported when the command had ended.
PROGRAM = """
import sys
from odin_beam.pipeline.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as e:
    code = e.code
SLOW = {"tensorflow", "apache_beam", "scipy.stats", "scipy.special", "matplotlib"}
print(code, sorted(SLOW & set(sys.modules)), file=sys.stderr)
"""
SCORE = ["score", "--output=/nowhere/out"]
MODEL = f"--model={DEMO_DATA}/classifier.keras"


def ended(*argv: str) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *argv], cwd=ROOT, capture_output=True, text=True, check=True)
    *said, last = done.stderr.splitlines()
    return done.stdout + "\n".join(said), last


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([*SCORE, MODEL, "--input=/nothing/*.tfrecord"], "--input /nothing/*.tfrecord matches no file"),
        (
            [*SCORE, MODEL, "--input=noise:uniform", "--temperature=0"],
            "--temperature must be a number above 0, not 0",
        ),
        ([*SCORE, "--model=/absent.keras", "--input=noise:uniform"], "model: cannot read /absent.keras: No such file"),
        ([*SCORE, MODEL, "--input=noise:uniform", "--resize=squash"], "--resize is one of stretch"),
        (["evaluate", "--scores=/nowhere"], "/nowhere is not an output folder of `score`: it has no run.json"),
        (["compare", "--scores=/nowhere", "--reference=a", "--new=b"], "/nowhere is not an output folder of `score`"),
        (["top", "--scores=/nowhere"], "/nowhere is not an output folder of `score`: it has no run.json"),
        (["review", "--scores=/nowhere", "--labels=/nowhere.csv"], "/nowhere is not an output folder of `score`"),
        (["scor"], "unknown job 'scor'"),
    ],
)
def test_a_mistake_is_one_line_without_tensorflow_or_beam(argv, message):
    said, imported = ended(*argv)
    assert message in said
    assert said.count("\n") == 0
    assert imported == "2 []"


@pytest.mark.parametrize("argv", [["--help"], *([job, "--help"] for job in command_line.names())], ids=str)
def test_help_imports_neither(argv):
    assert ended(*argv)[1] == "0 []"


def test_the_version_is_that_of_the_package():
    assert ended("--version") == (f"odin-beam {__version__}\n", "0 []")
