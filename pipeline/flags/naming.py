"""Settings named in a message become flags of a job; `transforms` does not know the flags."""

import re

from odin_beam.pipeline.flags import command_line


def with_flags(message: str, job: str) -> str:
    """The message with every setting in backquotes that is a flag of the job written as one: `epsilon` -> --epsilon."""
    names = {action.dest for action in command_line.flags_of(job)}.difference(command_line.names())
    return re.sub(r"`(\w+)`", lambda found: f"--{found[1]}" if found[1] in names else found[0], message)
