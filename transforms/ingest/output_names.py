"""Where the shards and everything beside them go."""

from dataclasses import dataclass

from odin_beam.transforms.storage import paths


@dataclass(frozen=True)
class OutputNames:
    """Where everything of one output goes.

    Attributes:
      prefix: absolute path that the names begin with.
      shards: how many shards there are.
    """

    prefix: str
    shards: int

    def shard(self, index: int) -> str:
        return f"{self.prefix}-{index:05d}-of-{self.shards:05d}.tfrecord"

    @property
    def rejected(self) -> str:
        return f"{self.prefix}-rejected.csv"

    @property
    def summary(self) -> str:
        return f"{self.prefix}-summary.json"

    @property
    def labels(self) -> str:
        return paths.join(paths.parent(self.prefix), "labels.txt")

    @property
    def unfinished(self) -> str:
        """Folder of what is only there while the job runs."""
        return f"{self.prefix}-unfinished"

    @property
    def plan(self) -> str:
        return paths.join(self.unfinished, "plan.parquet")
