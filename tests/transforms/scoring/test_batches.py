"""What a batch of rejects leaves behind."""

import gc
import tracemalloc

import numpy as np
import pytest

from odin_beam.transforms.scoring.batches import decode_batch
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.records import Record
from tests.helpers import samples
from tests.helpers.image_files import MEGABYTE

SIZE = 2 * MEGABYTE
NOISE = bytes(np.random.default_rng(0).integers(1, 255, SIZE, dtype=np.uint8))
BAD = {
    "not an Example": lambda: b"\xff" * SIZE,
    "no image": lambda: samples.example(other=NOISE),
    "not an image": lambda: samples.example(image=NOISE),
    "a small record": lambda: samples.example(image=NOISE[: SIZE // 4]) + b"\xff",
    "damaged JPEG": lambda: samples.example(image=b"\xff\xd8\xff" + NOISE),
    "damaged GIF": lambda: samples.example(image=b"GIF89a" + NOISE),
    "damaged PNG": lambda: samples.example(image=samples.encoded(samples.random_images(1, (900, 900, 3))[0])[:-99]),
}


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
def test_rejects_keep_nothing_of_their_records_in_memory(tmp_path, make):
    shard = samples.shard(samples.write_shard(tmp_path / "x.tfrecord", []))

    def reject() -> list[dict]:
        decoded = decode_batch([Record(0, 0, make())], shard, settings, (8, 8, 3), np.empty((1, 8, 8, 3), np.float32))
        return decoded.rejects

    settings = ScoreSettings("m", "d")
    assert [row["reason"] for row in reject()] != []
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        rejects = [reject() for _ in range(4)]
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    assert len(rejects) == 4
    assert left < SIZE // 8
