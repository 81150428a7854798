"""The paths of the shards and everything beside them."""

from dataclasses import dataclass

from odin_beam.transforms.ingest.labels_file import LABELS_FILE
from odin_beam.transforms.storage import paths


@dataclass(frozen=True)
class OutputNames:
    """The paths of all files of one output.

    Attributes:
      prefix: absolute path that all names begin with.
      shards: number of shards.
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
        return paths.join(paths.parent(self.prefix), LABELS_FILE)

    @property
    def own_labels(self) -> str:
        """For class names other than those in `labels`, which another output beside this one has written."""
        return f"{self.prefix}-{LABELS_FILE}"

    @property
    def unfinished(self) -> str:
        """Folder for files that exist only while the job runs."""
        return f"{self.prefix}-unfinished"

    @property
    def plan(self) -> str:
        return paths.join(self.unfinished, "plan.parquet")
