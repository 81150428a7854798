"""Errors in what a user provided, as opposed to bugs: they all have one root class.

A job's runner prints the message of an `OdinBeamError` as one line; any other exception is a bug and keeps its trace.
"""

from typing import Self


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


class FileExists(StorageError):
    """A file that was to be created exists."""


class NoSuchFile(StorageError):
    """The file does not exist, and a retry would not find it."""


def cause(error: BaseException) -> str:
    """The innermost reason for an error, in one line: Beam wraps the storage's message in dictionaries and errors."""
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
    """A record without usable pixels.

        >>> odin_beam.ImageError("undecodable", "the file is empty").reason
        'undecodable'

    Attributes:
      reason: a short code, as in the rejects of a run.
      detail: a sentence for people.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ClassifierError(OdinBeamError):
    """The model cannot be used as an image classifier; the message says why and what to do."""


class OutOfMemory(OdinBeamError):
    """Even the smallest batch exhausts the device's memory."""


class OutputError(OdinBeamError):
    """The output cannot be written: no shard can succeed, so the run stops."""


class CalibrationError(OdinBeamError):
    """A calibration cannot be read or made; the message says why."""


class FeatureReferenceError(OdinBeamError):
    """A reference of the fitted detectors cannot be read; the message says why."""


class OutputTakenError(OdinBeamError):
    """Another run has since started in the output, which now belongs to that run."""

    @classmethod
    def by(cls, output: str, what: str) -> Self:
        """The error for a run's folder; `what` differs: `inputs` or `settings`. Beam copies errors by their text."""
        return cls(
            f"another run, with other {what}, has since started in {output}, and the results there will be its own: "
            "give each run its own `output`"
        )
