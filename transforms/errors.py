"""What can go wrong with what a user gave, as opposed to a bug: every error has one root class.

Whoever runs a job prints the message of an `OdinBeamError` as one line; anything else is a bug and keeps its trace.
"""


class OdinBeamError(Exception):
    """The root of this package's errors; the message is one line for the user.

    >>> try:
    ...     odin_beam.ScoreSettings.for_model("/absent.keras")
    ... except odin_beam.OdinBeamError as error:
    ...     print(error)
    model: cannot read /absent.keras: No such file or directory
    """


class StorageError(OdinBeamError):
    """A file could not be listed, read or written; the message names it."""


class NoSuchFile(StorageError):
    """There is no file of that name, and another attempt would not find one."""


def cause(error: BaseException) -> str:
    """The innermost reason of an error, in one line: Beam wraps the storage's own words in dictionaries and errors."""
    while True:
        if details := getattr(error, "exception_details", None):
            error = next(iter(details.values()))
        elif isinstance(error, OSError) and error.args and isinstance(error.args[0], Exception):
            error = error.args[0]
        else:
            break
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    text = text.removesuffix(" with exceptions None")
    return " ".join(text.split())[:300]


class ImageError(OdinBeamError):
    """A record that gives no pixels. `reason` is a short code, `detail` a sentence for people."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ClassifierError(OdinBeamError):
    """The model cannot serve as a classifier of images; the message says why and what to do."""


class OutOfMemory(OdinBeamError):
    """No batch is small enough for the device."""


class OutputError(OdinBeamError):
    """The output cannot be written: no shard can succeed, so the run stops."""


class CalibrationError(OdinBeamError):
    """There is no calibration to be had; the message says why."""


class OutputTakenError(OdinBeamError):
    """Another run of other inputs has since been launched on the output, which is that one's now."""

    def __init__(self, output: str):
        super().__init__(
            f"another run, with other inputs, has since started in {output}, and the results there will be its own: "
            "give each run its own `output`"
        )
