"""The files that a PATTERN matches, and why it matches none."""

import collections
import itertools
import re
from collections.abc import Iterable, Sequence

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.launch.image_table import UNWRITABLE
from odin_beam.pipeline.launch.source_pattern import SOURCE_NAME, SourcePattern
from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.images.formats import EXTENSIONS
from odin_beam.transforms.ingest.image_files import is_tfrecord
from odin_beam.transforms.storage.file_system import FileStat, matches
from odin_beam.transforms.storage.listing import stat_file
from odin_beam.transforms.storage.litter import is_beside_shards, is_litter, is_skipped
from odin_beam.transforms.storage.matched_files import Matched, escaped, match_files

# An extension at the end of a glob, such as that of `photos/**.jpg`.
_EXTENSION = re.compile(r"(?<=[*?\]])\.[A-Za-z0-9]+$")


def matching_shards(source: SourcePattern, output: str | None) -> tuple[list[FileStat], list[str]]:
    """The files that a glob, folder or path stands for; a folder stands for the files named as TFRecord.

    Returns:
      The files, sorted by path, without litter, what `ingest` writes beside shards and those in the run's own folder;
      and the paths of a folder's others.

    Raises:
      UsageError: there are none, they cannot be listed, or a name cannot be written to a table.
    """
    listed = _listed(source, source.pattern)
    files = [file for file in listed.files if not is_litter(listed.name(file))]
    stats = _outside(output, [file for file in files if not is_beside_shards(file.path)])
    if not listed.is_folder:
        return _checked(source, stats, listed), []
    stats = [stat for stat in stats if not is_skipped(listed.name(stat))]
    taken = [stat for stat in stats if is_tfrecord(stat.path)]
    if not taken:
        raise UsageError(
            f"--{source.role} {source.pattern} is a folder without files named .tfrecord: give a pattern of those in "
            f"it, such as '{listed.root}*', or files:{source.pattern} for loose images"
        )
    return _checked(source, taken, listed), [stat.path for stat in stats if not is_tfrecord(stat.path)]


def matching_images(source: SourcePattern, output: str | None) -> tuple[list[FileStat], list[str]]:
    """The images that a glob, folder or path stands for; a folder stands for the files named as images.

    Returns:
      The files, sorted by path, without hidden ones, litter and those in the run's own folder; and the paths of files
      that the pattern leaves out: for a folder, those not named as images, for a glob that ends in an extension, the
      images of other extensions beside its own.

    Raises:
      UsageError: as for `matching_shards`.
    """
    # One listing serves both, so that a large folder is not listed twice.
    widened = _EXTENSION.sub(".*", source.pattern)
    listed = _listed(source, source.pattern if _is_file(source.pattern) else widened)
    stats = _outside(output, listed.without_skipped().files)
    if listed.is_folder:
        taken = [stat for stat in stats if is_image_name(stat.path)]
        left = [stat.path for stat in stats if not is_image_name(stat.path)]
    else:
        wanted = [stat.path == source.pattern or matches(source.pattern, stat.path) for stat in stats]
        taken = list(itertools.compress(stats, wanted))
        left = [stat.path for stat, is_wanted in zip(stats, wanted, strict=True) if not is_wanted]
        left = [path for path in left if is_image_name(path)]
    if not taken and left:
        raise UsageError(f"--{source.role} {source.text} matches no file; {_beside(left)}")
    return _checked(source, taken, listed), left


def is_image_name(path: str) -> bool:
    """Whether a file is named as an image of a format that is read, in any case."""
    return path.lower().endswith(EXTENSIONS)


def left_out(source: str, left: Sequence[str]) -> str:
    """The line about files that a source's patterns leave out."""
    return f"source {source}: {_beside(left)}"


def nothing_matched(pattern: str, listed: Matched, kind: str = "") -> str:
    """Why a pattern matches nothing, to follow it in a message.

    Raises:
      StorageError: the storage did not answer.
    """
    if listed.files:
        return f"matches only hidden files and litter, such as {listed.files[0].path}, which are skipped"
    if literal := escaped(pattern):
        return f"matches no file; in a pattern, [ * and ? are written [[] [*] [?]: did you mean {kind}{literal}?"
    before = pattern.partition("=")[0].rpartition("/")[2]
    if "=" not in pattern or SOURCE_NAME.fullmatch(before):
        return "matches no file"
    return (
        f"matches no file; if {before!r} was meant as a NAME: a NAME begins with a letter, followed by letters, "
        "digits, _ . and -"
    )


def _listed(source: SourcePattern, pattern: str) -> Matched:
    try:
        return match_files(pattern)
    except StorageError as e:
        raise UsageError(str(e)) from e


def _is_file(path: str) -> bool:
    try:
        return stat_file(path) is not None
    except StorageError as e:
        raise UsageError(str(e)) from e


def _outside(output: str | None, stats: Iterable[FileStat]) -> list[FileStat]:
    return [stat for stat in stats if output is None or not stat.path.startswith(f"{output}/")]


def _checked(source: SourcePattern, stats: list[FileStat], listed: Matched) -> list[FileStat]:
    if not stats:
        kind = f"{source.kind}:" if source.kind else ""
        try:
            raise UsageError(f"--{source.role} {source.pattern} {nothing_matched(source.pattern, listed, kind)}")
        except StorageError as e:
            raise UsageError(str(e)) from e
    for stat in stats:
        if UNWRITABLE.search(stat.path):
            shown = stat.path.encode("utf-8", "backslashreplace").decode()
            raise UsageError(
                f"--{source.role}: the file name {shown!r} contains control characters or invalid UTF-8: rename it"
            )
    return stats


def _beside(left: Sequence[str]) -> str:
    counts = collections.Counter(_extension(path) for path in left)
    kinds = ", ".join(f"{count:,} {extension}" for extension, count in sorted(counts.items())[:10])
    files = "1 other file is" if len(left) == 1 else f"{len(left):,} other files are"
    return f"{files} beside what was asked for ({kinds}{', ...' if len(counts) > 10 else ''})"


def _extension(path: str) -> str:
    name, dot, extension = path.rpartition("/")[2].rpartition(".")
    return f"{dot}{extension}" if name else "without an extension"
