"""What a PATTERN of the command line means: its shards."""

from collections.abc import Iterable

from pipeline.options import SOURCE_NAME, SourcePattern, UsageError
from transforms import storage
from transforms.records import Shard
from transforms.score_table import output_name


def list_shards(patterns: Iterable[SourcePattern]) -> list[Shard]:
    """The shards of all sources: by source in the order given, then by path; none twice within a source.

    Raises:
      UsageError: a pattern matches nothing, or cannot be listed.
    """
    shards: dict[tuple[str, str], Shard] = {}
    for source in patterns:
        try:
            stats = storage.list_files(source.pattern)
        except storage.StorageError as e:
            raise UsageError(str(e)) from e
        if not stats:
            raise UsageError(f"--{source.role} {source.pattern} matches no file{_name_hint(source.pattern)}")
        for stat in stats:
            shards.setdefault(
                (source.name, stat.path),
                Shard(source.name, source.role, stat.path, stat.size, stat.modified, output_name(stat.path)),
            )
    order = {name: i for i, name in enumerate(dict.fromkeys(source.name for source in patterns))}
    return sorted(shards.values(), key=lambda shard: (order[shard.source], shard.path))


def _name_hint(pattern: str) -> str:
    """Where `=` stands in a pattern that matches nothing, a NAME was probably meant."""
    before = pattern.partition("=")[0].rpartition("/")[2]
    if "=" not in pattern or SOURCE_NAME.fullmatch(before):
        return ""
    return f"; if {before!r} was meant as a NAME: a NAME begins with a letter, then letters, digits, _ . and -"
