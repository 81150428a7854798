"""What the flags of all jobs have in common: how they are spelled, and the types of their values.

`-` and `_` are interchangeable in flag names, nothing may be abbreviated, and an unknown flag is an error. Beam's own
options are accepted everywhere; everything after a lone `--` goes to the runner untouched. A list flag may be repeated
or take one comma-separated value, and every flag can be given as a string, since Dataflow templates pass strings.
"""

import argparse
from collections.abc import Sequence

from odin_beam.pipeline.errors import UsageError
from odin_beam.transforms.tables.layout import FLAGS_NAME


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, whose errors are one line."""

    def __init__(self, job: str, summary: str, description: str):
        super().__init__(
            prog=f"odin-beam {job}",
            description=f"{summary}\n\n{description}",
            epilog="Beam's own options are accepted too. The default runner is FnApiRunner, on this machine.",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str):
        raise UsageError(f"{message} (see odin-beam {self.prog.split()[-1]} --help)")

    def add_boolean(self, name: str, help: str, default: bool | None = False) -> None:
        """A flag that is true when given alone."""
        self.add_argument(name, nargs="?", const=True, default=default, type=boolean, metavar="true|false", help=help)

    def add_list(self, name: str, metavar: str, help: str, **kwargs) -> None:
        """A flag that may be repeated; see `items`."""
        self.add_argument(name, action="append", default=[], metavar=metavar, help=help, **kwargs)


def items(values: Sequence[str]) -> list[str]:
    """The items of a list flag: of all its values, taken apart at commas."""
    return [item for value in values for item in value.split(",") if item]


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The job's part, its flag names spelled with `_`, and the runner's part behind a lone `--`."""
    argv = list(argv)
    cut = argv.index("--") if "--" in argv else len(argv)
    ours = []
    for word in argv[:cut]:
        name, equals, value = word.partition("=")
        ours.append(name[:2] + name[2:].replace("-", "_") + equals + value if word.startswith("--") else word)
    return ours, argv[cut + 1 :]


def boolean(text: str) -> bool:
    """`true` or `false`."""
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
    return values[text.lower()]


def number(text: str) -> float:
    """Any number."""
    try:
        return float(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from e


def whole_number(text: str) -> int:
    """Any whole number."""
    try:
        return int(text)
    except ValueError as e:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from e


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be between 0 and 1")
    return value


def rate(text: str) -> float:
    """A number above 0 and below 1."""
    value = number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be above 0 and below 1")
    return value


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = whole_number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def flags_name(text: str) -> str:
    """The name of flags: at most 40 ASCII letters, digits and `_`."""
    if not FLAGS_NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text}: at most 40 letters, digits and _")
    return text


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    return tuple(map(number, text.split(",")))


def size(text: str) -> tuple[int, int]:
    """H,W, or one number for both."""
    parts = list(map(whole_number, text.split(",")))
    if len(parts) not in (1, 2):
        raise argparse.ArgumentTypeError(f"{text} is neither H,W nor one number for both")
    return parts[0], parts[-1]
