"""The sources that `top` looks at and `review` judges: both must take the same ones for a sample to be one."""

from collections.abc import Iterable

from odin_beam.pipeline.errors import UsageError
from odin_beam.transforms.calibration.flags_summary import archive_sources
from odin_beam.transforms.shards.manifest_file import roles_of
from odin_beam.transforms.shards.shard import Shard


def sampled_sources(output: str, shards: Iterable[Shard], source: str | None) -> tuple[str, ...]:
    """The source that `--source` names; without it the archive's: those of `--input`, or all if there are none.

    Args:
      output: the run's folder, for the message.
      shards: of the run.
      source: as given.

    Raises:
      UsageError: there is no such source.
    """
    roles = roles_of(shards)
    if source is None:
        return tuple(archive_sources(roles))
    if source not in roles:
        raise UsageError(f"--source {source}: {output} has no such source, only {', '.join(roles)}")
    return (source,)
