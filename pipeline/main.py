"""`python -m odin_beam JOB ...`, or `odin-beam JOB ...`.

Exit codes: 0 done; 1 the run stopped, run it again to resume; 2 a usage error, nothing written; 3 done, but shards
failed or more records were rejected than --max_rejected allows; 130 interrupted, 143 terminated.
"""

import contextlib
import importlib
import logging
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from odin_beam.pipeline.errors import UsageError
from odin_beam.transforms import __version__
from odin_beam.transforms.errors import OdinBeamError
from odin_beam.transforms.text import printable

DEBUG_VARIABLE = "ODIN_BEAM_DEBUG"
DEBUG = bool(os.environ.get(DEBUG_VARIABLE))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one job and returns its exit code.

    Args:
      argv: the job and its flags; None for those of this process, whose standard error is then looked after.
    """
    given = sys.argv[1:] if argv is None else list(argv)
    if argv is not None or not given or given[0].startswith("-"):
        return _main(given)
    from odin_beam.pipeline.launch.decoder_messages import counted

    with counted():
        return _main(given)


def _main(argv: list[str]) -> int:
    if argv[:1] == ["--version"]:
        print(f"odin-beam {__version__}")
        return 0

    from odin_beam.pipeline.flags import command_line

    if not argv or argv[0] in ("-h", "--help"):
        print(command_line.job_list())
        return 0 if argv else 2
    _quiet_libraries()
    job = argv[0]
    interrupted = f"interrupted; to go on: odin-beam {shlex.join(argv)}"
    with _termination_as_interrupt() as signals:
        try:
            parsed = command_line.parse(job, argv[1:])
            return importlib.import_module(f"odin_beam.pipeline.jobs.{job}").run(parsed)
        except UsageError as e:
            return _say(job, e, 2)
        except KeyboardInterrupt:
            return _say(job, interrupted, 128 + signals[-1])
        except BrokenPipeError:
            # Who read the output has ended, as `head` does. What is left of it goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        except Exception as e:
            if DEBUG:
                raise
            if reason(e).endswith("KeyboardInterrupt"):
                return _say(job, interrupted, 128 + signals[-1])
            again = f"to resume, run the same command again ({DEBUG_VARIABLE}=1 shows the trace)"
            return _say(job, f"stopped: {reason(e)}; {again}", 1)


@contextlib.contextmanager
def _termination_as_interrupt() -> Iterator[list[int]]:
    """Lets SIGTERM, sent by cluster managers and `kill`, end the body as Ctrl-C does; yields the signals received."""
    signals = [signal.SIGINT]
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def note(number: int, frame) -> None:
        signals.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield signals
    finally:
        signal.signal(signal.SIGTERM, before)


def reason(error: Exception) -> str:
    """The one line of an error that says what is wrong.

    Beam passes on a worker's error as text: the trace, then the error itself in the last line, then the step of the
    pipeline in which it was raised.
    """
    text = (str(error).strip().splitlines() or [""])[-1].partition(" [while running")[0]
    if isinstance(error, OdinBeamError):
        return text[:400]
    name = type(error).__name__
    if worker := re.fullmatch(r"(?:\w+\.)*(\w+): (.*)", text):
        if worker[1] in _names(OdinBeamError):
            return worker[2][:400]
        name, text = worker.groups() if worker[1].endswith("Error") else (name, text)
    return f"{name}: {text}"[:400]


def _names(kind: type) -> set[str]:
    """An error class and all that derive from it."""
    return {kind.__name__}.union(*map(_names, kind.__subclasses__()))


def _say(job: str, message: object, code: int) -> int:
    from odin_beam.pipeline.flags import command_line, naming

    text = naming.with_flags(str(message), job) if job in command_line.names() else message
    lines = [printable(line) for line in str(text).split("\n")]
    print(f"odin-beam {job}: " + "\n".join(lines), file=sys.stderr)
    return code


def _quiet_libraries() -> None:
    """Keeps libraries' warnings about themselves from burying the job's own messages."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger().setLevel(logging.INFO if DEBUG else logging.ERROR)
    logging.getLogger("odin_beam.transforms").setLevel(logging.INFO if DEBUG else logging.WARNING)
    if not DEBUG:
        # A local runner logs an error with its trace; `main` then prints it as one line.
        for runner in ("common", "portability", "worker"):
            logging.getLogger(f"apache_beam.runners.{runner}").setLevel(logging.CRITICAL)
        # A cluster's job server logs through the root logger; its last error is in the exception as well.
        logging.getLogger().addFilter(_is_no_job_message)


def _is_no_job_message(record: logging.LogRecord) -> bool:
    return record.module != "portable_runner"
