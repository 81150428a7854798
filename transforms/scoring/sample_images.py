"""A few images of a source, spread over its shards: enough to check whether a classifier understands them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from odin_beam.transforms import errors
from odin_beam.transforms.scoring.batches import DecodedBatch, decode_batch
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.contents.image_list import FETCHES_AT_ONCE
from odin_beam.transforms.shards.shard import Shard


def sample_images(
    shards: Sequence[Shard], folder: str, settings: ScoreSettings, input_shape: tuple[int, int, int], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Reads and decodes images of shards spread evenly over the list.

    Archives are often sorted by class, so many shards give more classes than many images of one shard.

    Args:
      shards: of one or more sources; unreadable shards are skipped.
      folder: where the run's lists of images are stored.
      settings: geometry and feature names.
      input_shape: of the classifier.
      count: maximum number of images.

    Returns:
      (float32 [N, H, W, C] in [0, 1], int64 labels [N], -1 for none), N <= count; N is 0 if nothing is readable.
    """
    if not shards:
        return np.empty((0, *input_shape), np.float32), np.empty(0, np.int64)
    tried = [shards[i] for i in np.unique(np.linspace(0, len(shards) - 1, min(count, len(shards))).astype(int))]
    batches = []
    for i, shard in enumerate(tried):
        wanted = -(-(count - sum(len(batch.rows) for batch in batches)) // (len(tried) - i))
        batches.append(_some_images(shard, folder, settings, input_shape, wanted))
    labels = [-1 if row["label"] is None else row["label"] for batch in batches for row in batch.rows]
    pixels = np.concatenate([np.empty((0, *input_shape), np.float32), *(batch.pixels for batch in batches)])
    return pixels, np.array(labels, np.int64)


def _some_images(
    shard: Shard, folder: str, settings: ScoreSettings, input_shape: tuple[int, int, int], wanted: int
) -> DecodedBatch:
    """Some images of a shard, not counting its bad records."""
    with ThreadPoolExecutor(FETCHES_AT_ONCE) as fetchers:
        try:
            batch = shard.content.sample(shard, folder, fetchers, max(1, wanted))
        except errors.StorageError:
            batch = []
    return decode_batch(batch, shard, settings, input_shape, np.empty((len(batch), *input_shape), np.float32))
