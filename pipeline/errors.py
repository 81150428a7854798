"""What is wrong with a command line, as opposed to what goes wrong while a job runs."""

from odin_beam.transforms.errors import OdinBeamError


class UsageError(OdinBeamError):
    """The command makes no sense as given; the message is one line that says what to do. Nothing was written.

    >>> try:
    ...     odin_beam.Shards("out", input=["photos="])
    ... except odin_beam.UsageError as error:
    ...     print(error)
    source 'photos' has no pattern: give --input photos=PATTERN
    """
