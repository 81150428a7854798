"""Pairs of a shard's images, to make one image of two.

A pair stays within one half of the images, see `images.digest`, and each image is in at most one pair: so whatever is
made of a pair depends on no other images, and halves and resamples of pairs are independent.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from odin_beam.transforms import limits
from odin_beam.transforms.errors import ImageError
from odin_beam.transforms.images.digest import half_of, image_digest
from odin_beam.transforms.shards.records import Record

if TYPE_CHECKING:
    from odin_beam.transforms.images.example import ImageRecord

# Records of a half that wait for a partner. Images are often sorted by class, and then a whole class waits.
_MAX_WAITING = 1024


def pairs(records: Iterable[Record], parse: Callable[[Record], "ImageRecord"], path: str) -> Iterator[Record]:
    """The second record of each pair, in order, with the first as its `partner`.

    The two images have different labels, or at least one has none. Memory: the waiting records, at most 1,024 and
    `limits.MAX_BATCH_BYTES` in each half; past that, the record that has waited longest stays without a partner.

    Args:
      records: of a shard, in order; bad ones are passed on, those without a partner are left out.
      parse: gives a good record's image and label, or raises `ImageError`; such records are passed on, too.
      path: of the shard.
    """
    waiting = {half: _Waiting() for half in (0, 1)}
    for record in records:
        if record.problem:
            yield record
            continue
        try:
            parsed = parse(record)
        except ImageError:
            yield record
            continue
        queue = waiting[half_of(image_digest(parsed.image, path, record.index))]
        if (partner := queue.take_other(parsed.label)) is not None:
            yield replace(record, partner=partner)
        else:
            queue.add(record, parsed.label)


class _Waiting:
    """Records without a partner, all of one class."""

    def __init__(self):
        self._records: collections.deque[Record] = collections.deque()
        self._label: int | None = None
        self._bytes = 0

    def take_other(self, label: int | None) -> Record | None:
        """The oldest record, if it can be of another class."""
        if not self._records or (label is not None and label == self._label):
            return None
        record = self._records.popleft()
        self._bytes -= len(record.payload)
        return record

    def add(self, record: Record, label: int | None) -> None:
        self._records.append(record)
        self._label = label
        self._bytes += len(record.payload)
        while len(self._records) > _MAX_WAITING or self._bytes > limits.MAX_BATCH_BYTES:
            self._bytes -= len(self._records.popleft().payload)
