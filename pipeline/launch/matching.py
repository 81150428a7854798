"""The files that a PATTERN matches, and why it matches none."""

import os

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.launch.image_table import UNWRITABLE
from odin_beam.pipeline.launch.source_pattern import SOURCE_NAME, SourcePattern
from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.storage.file_system import FileStat
from odin_beam.transforms.storage.listing import list_files
from odin_beam.transforms.storage.paths import is_local


def matching_files(source: SourcePattern, output: str | None) -> list[FileStat]:
    """The files that match a glob, sorted by path, without those in the run's own folder.

    Raises:
      UsageError: there are none, they cannot be listed, or a name cannot be written to a table.
    """
    try:
        stats = list_files(source.pattern)
    except StorageError as e:
        raise UsageError(str(e)) from e
    stats = [stat for stat in stats if output is None or not stat.path.startswith(f"{output}/")]
    if not stats:
        raise UsageError(f"--{source.role} {source.pattern} {_nothing_there(source)}")
    for stat in stats:
        if UNWRITABLE.search(stat.path):
            shown = stat.path.encode("utf-8", "backslashreplace").decode()
            raise UsageError(
                f"--{source.role}: the file name {shown!r} contains control characters or invalid UTF-8: rename it"
            )
    return stats


def _nothing_there(source: SourcePattern) -> str:
    """The likely reason why a pattern matches nothing."""
    pattern = source.pattern
    if is_local(pattern) and os.path.isdir(pattern):
        glob, also = (
            ("**", "") if source.kind == "files" else ("*.tfrecord", f", or files:{pattern}/** for loose images")
        )
        return f"is a folder: give a pattern of the files in it, such as {os.path.join(pattern, glob)!r}{also}"
    before = pattern.partition("=")[0].rpartition("/")[2]
    if "=" not in pattern or SOURCE_NAME.fullmatch(before):
        return "matches no file"
    return (
        f"matches no file; if {before!r} was meant as a NAME: a NAME begins with a letter, followed by letters, "
        "digits, _ . and -"
    )
