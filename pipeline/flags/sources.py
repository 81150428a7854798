"""Flags that define which images are used: `[NAME=]PATTERN`, once per role."""

import argparse
import difflib
from collections.abc import Sequence

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.parser import Parser, items, positive
from odin_beam.pipeline.launch.source_kinds import KINDS
from odin_beam.pipeline.launch.source_pattern import SOURCE_NAME, SourceOptions, SourcePattern
from odin_beam.transforms.storage.paths import absolute_path

ROLES = ("in_distribution", "out_distribution", "input")
_PATTERNS = "\n".join(f"  {kind.usage:28}{kind.help}" for kind in KINDS.values())
PATTERN_HELP = f"""PATTERN is one of
{_PATTERNS}
A flag may be repeated, or take several patterns with commas between them, so a comma cannot be part of a pattern."""


def add_source_flags(parser: Parser) -> None:
    """Flags that kinds of sources need besides their pattern."""
    parser.add_argument(
        "--noise_count", type=positive, default=10_000, metavar="N", help="images per noise: source (default: 10000)"
    )
    parser.add_argument(
        "--tfds_data_dir",
        default="~/tensorflow_datasets",
        metavar="DIR",
        help="where tfds: sources are prepared (default: ~/tensorflow_datasets)",
    )


def source_options(arguments: argparse.Namespace, roles: Sequence[str], beam: Sequence[str]) -> SourceOptions:
    """The sources given for some roles, without duplicates.

    Raises:
      UsageError: a NAME without PATTERN, a misspelt kind, or one name in two roles.
    """
    given = ((text, role) for role in roles for text in getattr(arguments, role))
    patterns = tuple(dict.fromkeys(pattern for text, role in given for pattern in source_patterns(text, role)))
    role_of: dict[str, str] = {}
    for source in patterns:
        if role_of.setdefault(source.name, source.role) != source.role:
            raise UsageError(
                f"source {source.name!r} is given as {role_of[source.name]} and as {source.role}: rename one"
            )
    elsewhere = False
    if beam:
        from odin_beam.pipeline.runners import beam_options, dataflow

        elsewhere = dataflow.on_dataflow(beam_options.beam_options(beam))
    return SourceOptions(patterns, arguments.noise_count, absolute_path(arguments.tfds_data_dir), elsewhere)


def source_patterns(text: str, role: str) -> list[SourcePattern]:
    """`[NAME=]PATTERN[,[NAME=]PATTERN]...` -> its parts; a NAME applies until the next one.

    The text before the first `=` is part of the pattern if it is not a NAME.

    Raises:
      UsageError: a NAME without PATTERN, or an unknown kind of source.
    """
    patterns, name = [], None
    for item in items([text]):
        before, equals, pattern = item.partition("=")
        if equals and SOURCE_NAME.fullmatch(before):
            name = before
        else:
            pattern = item
        if not pattern:
            raise UsageError(f"source {name!r} has no pattern: give --{role} {name}=PATTERN")
        patterns.append(_source_pattern(name, role, pattern))
    return patterns


def _source_pattern(name: str | None, role: str, pattern: str) -> SourcePattern:
    prefix, colon, rest = pattern.partition(":")
    if not colon or not prefix or prefix not in KINDS:
        prefixes = [known for known in KINDS if known]
        if colon and not rest.startswith("//") and (close := difflib.get_close_matches(prefix, prefixes, n=1)):
            raise UsageError(f"--{role} {pattern}: did you mean {close[0]}:{rest}?")
        prefix, rest = "", pattern
    kind = KINDS[prefix]
    absolute = absolute_path(rest) if kind.is_path else rest
    return SourcePattern(name or kind.default_name(rest) or role, role, absolute, prefix, rest)


def worker_paths(sources: SourceOptions) -> list[tuple[str, str]]:
    """(flag, path) of what workers read of the sources; lists are read at launch."""
    found = (KINDS[source.kind].worker_path(source, sources) for source in sources.patterns)
    return [path for path in found if path]
