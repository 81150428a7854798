"""`odin-beam score ...` that prints `stalled` and stands still with a part of the fourth scores file written."""

import collections
import sys
import threading
from unittest import mock

from odin_beam.pipeline.main import main
from odin_beam.transforms.scoring import score_shards
from odin_beam.transforms.tables import parquet

if __name__ == "__main__":
    score_rows, batches = score_shards.score_rows, collections.Counter()

    def stalling(shard, *rest):
        """The rows as they are, but none for the second batch of the fourth shard."""
        batches[shard.path] += 1
        if len(batches) == 4 and batches[shard.path] == 2:
            print("stalled", flush=True)
            threading.Event().wait()
        return score_rows(shard, *rest)

    with mock.patch.object(parquet, "ROW_GROUP_ROWS", 1), mock.patch.object(score_shards, "score_rows", stalling):
        main(sys.argv[1:])
