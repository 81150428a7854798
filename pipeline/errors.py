"""Errors in a command line, as opposed to errors while a job runs."""

from odin_beam.transforms.errors import OdinBeamError


class UsageError(OdinBeamError):
    """The command is invalid as given; the message is one line that says what to do. Nothing was written.

    >>> try:
    ...     odin_beam.Shards("out", input=["photos="])
    ... except odin_beam.UsageError as error:
    ...     print(error)
    source 'photos' has no pattern: give --input photos=PATTERN
    """
