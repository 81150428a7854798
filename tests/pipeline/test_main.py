"""What reaches a user of an error, and in whose words."""

import subprocess
import sys

import pytest

from odin_beam.pipeline import main
from odin_beam.pipeline.flags.naming import with_flags
from odin_beam.transforms.errors import NoSuchFile, StorageError
from odin_beam.transforms.settings_json import OtherVersion

WORKER = "Traceback (most recent call last):\n  File ...\n"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (NoSuchFile("cannot read /x: No such file"), "cannot read /x: No such file"),
        (
            RuntimeError(f"{WORKER}odin_beam.transforms.errors.StorageError: cannot read /x [while running 'A']"),
            "cannot read /x",
        ),
        (RuntimeError(f"{WORKER}odin_beam.transforms.errors.NoSuchFile: cannot read /x"), "cannot read /x"),
        (RuntimeError(f"{WORKER}odin_beam.transforms.settings_json.OtherVersion: x was written"), "x was written"),
        (RuntimeError(f"{WORKER}ValueError: a bug [while running 'A']"), "ValueError: a bug"),
        (OtherVersion("x was written"), "x was written"),
        (KeyError("x"), "KeyError: 'x'"),
        (StorageError("two\nlines"), "lines"),
    ],
)
def test_an_error_of_ours_is_its_message_and_a_bug_has_its_name(error, text):
    assert main.reason(error) == text


def test_settings_become_the_flags_of_the_job_that_has_them():
    assert with_flags("score with `epsilon` 0", "score") == "score with --epsilon 0"
    assert with_flags("score with `epsilon` 0", "evaluate") == "score with `epsilon` 0"
    # A job is not a flag.
    assert with_flags("a model.json of `check`", "score") == "a model.json of `check`"


def test_a_reader_that_ends_early_is_no_error():
    """As with `odin-beam evaluate ... | head`."""
    code = (
        "import sys\n"
        "from odin_beam.pipeline.jobs import evaluate\n"
        "from odin_beam.pipeline.main import main\n"
        "evaluate.run = lambda options: print('x' * 1_000_000)\n"
        "sys.exit(main(['evaluate', '--scores=/x']))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141
