"""How fast a core reads and decodes a source's images."""

import time
from collections.abc import Sequence

from odin_beam.transforms.scoring.sample_images import sample_images
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.shard import Shard


def decoded_per_second(
    shards: Sequence[Shard], folder: str, settings: ScoreSettings, input_shape: tuple[int, int, int], count: int
) -> float | None:
    """Images per second of one core, from the processor time of reading and decoding a sample.

    Waiting for storage takes no processor time and does not count: `score` decodes other images meanwhile. Call it
    after the same sample has been read once, or the start of TensorFlow's decoders counts too.

    Args:
      shards: of one or more sources.
      folder: where the run's lists of images are stored.
      settings: geometry and feature names.
      input_shape: of the classifier.
      count: maximum number of images.

    Returns:
      The rate; None if nothing is readable.
    """
    started = time.process_time()
    pixels, _ = sample_images(shards, folder, settings, input_shape, count)
    seconds = time.process_time() - started
    return len(pixels) / seconds if len(pixels) and seconds else None
