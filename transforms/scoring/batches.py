"""Turns records into batches of pixels, decoded ahead of the device."""

import collections
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from odin_beam.transforms import errors
from odin_beam.transforms.images import example
from odin_beam.transforms.images.digest import image_digest
from odin_beam.transforms.images.jpeg_batches import jpegs_at_once
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.contents.content import default_id
from odin_beam.transforms.shards.records import Record
from odin_beam.transforms.shards.shard import FeatureNames, Shard

Batch = TypeVar("Batch")
Decoded = TypeVar("Decoded")


@dataclass
class DecodedBatch:
    """A batch between decoding and scoring: the rows that have pixels, and the rejects.

    Attributes:
      pixels: float32 [N, H, W, C] in [0, 1], in memory or on the device.
      rows: `index`, `offset`, `id`, `uri`, `label` of each of the N images, and for a grid `image_digest` and
        `partner`.
      rejects: rows of `REJECT_SCHEMA` without `shard`.
      framed: number of records in the batch.
    """

    pixels: np.ndarray | tf.Tensor
    rows: list[dict[str, Any]] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    framed: int = 0


def decode_batch(
    batch: list[Record], shard: Shard, settings: ScoreSettings, input_shape: tuple[int, int, int], pixels: np.ndarray
) -> DecodedBatch:
    """Parses and decodes records; a record without pixels becomes a reject, never an error.

    Args:
      batch: N records of the shard.
      shard: of any kind.
      settings: how to read them.
      input_shape: (H, W, C) of the classifier's input.
      pixels: float32 [N, H, W, C], or longer, to write the images to.
    """
    decoded, kept = DecodedBatch(pixels[: len(batch)], framed=len(batch)), []
    digested = settings.digests_images
    step = jpegs_at_once(input_shape)
    for start in range(0, len(batch), step):
        chunk, slots = batch[start : start + step], decoded.pixels[start : start + step]
        parsed = [_parsed(record, shard, settings.features) for record in chunk]
        good = [image if isinstance(image, example.ImageRecord) else None for image in parsed]
        is_decoded = shard.content.decode_many(good, settings.geometry, slots)
        for i, (record, image) in enumerate(zip(chunk, parsed, strict=True)):
            row = {"index": record.index, "offset": record.offset, "id": default_id(record, shard)}
            row["uri"] = shard.content.uri(shard, record, good[i])
            if not isinstance(image, example.ImageRecord):
                decoded.rejects.append(reject_row(row, *image))
                continue
            try:
                row["id"] = image.id if image.id is not None else row["id"]
                if not is_decoded[i]:
                    shard.content.pixels(
                        record, image, shard, input_shape, settings.geometry, settings.features, slots[i]
                    )
                decoded.rows.append({**row, "label": image.label})
                if digested:
                    decoded.rows[-1] |= _split(record, image, shard)
                kept.append(start + i)
            except errors.ImageError as e:
                decoded.rejects.append(reject_row(row, e.reason, e.detail))
    if decoded.rejects:
        decoded.pixels = decoded.pixels[kept]
    return decoded


def _split(record: Record, image: example.ImageRecord, shard: Shard) -> dict[str, Any]:
    """The values of `schemas.SPLIT_COLUMNS`."""
    digest = image_digest(image.image, shard.path, record.index)
    return {"image_digest": digest, "partner": record.partner.index if record.partner else None}


def _parsed(record: Record, shard: Shard, names: FeatureNames) -> example.ImageRecord | tuple[str, str]:
    """What a record contains, or the reason and detail of its reject.

    An error is not kept: its trace would keep the record, and everything made from it, in memory.
    """
    if record.problem:
        return record.problem
    try:
        return shard.content.parse(record, names)
    except errors.ImageError as e:
        return e.reason, e.detail


def non_finite() -> tuple[str, str]:
    """Reason and detail of the reject of an image without finite logits."""
    return "non_finite_logits", "the classifier gives NaN or infinity for this image"


def reject_row(row: dict[str, Any], reason: str, detail: str) -> dict[str, Any]:
    place = {name: row[name] for name in ("index", "offset", "id", "uri")}
    return {**place, "reason": reason, "detail": detail}


def work_ahead(
    batches: Iterator[Batch], decode: Callable[[Batch], Decoded], decoders: ThreadPoolExecutor, depth: int
) -> Iterator[Decoded]:
    """Yields `decode(batch)` in order, while up to `depth` batches are read and decoded in the background.

    Errors in reading and decoding are raised here, in the caller's thread, in place of the batch.
    """
    with ThreadPoolExecutor(1, "read") as reader:

        def read():
            batch = next(batches, None)
            return None if batch is None else decoders.submit(decode, batch)

        pending = collections.deque(reader.submit(read) for _ in range(depth))
        try:
            while (decoding := pending.popleft().result()) is not None:
                pending.append(reader.submit(read))
                yield decoding.result()
        finally:
            reader.shutdown(cancel_futures=True)
