"""TFRecord files -> the requested number of TFRecord shards: the same payloads in the same order, without bad records.

Two passes, both in Beam and in bounded memory: the first reads every file once and counts its good records, the second
lets every output shard copy its contiguous range. To avoid reading a large file from its beginning for a range in the
middle, the first pass notes the start of a record every `MARK_BYTES`; a gzip file has no such places, and every shard
that copies from it decompresses it from the beginning.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import apache_beam as beam

from odin_beam.transforms import errors
from odin_beam.transforms.ingest.members import Reject, printable
from odin_beam.transforms.ingest.output_names import OutputNames
from odin_beam.transforms.ingest.summary import ShardReport
from odin_beam.transforms.ingest.tfrecord_writer import TFRecordWriter
from odin_beam.transforms.shards import framing
from odin_beam.transforms.shards.records import Record
from odin_beam.transforms.storage.random_access import open_random_access

MARK_BYTES = 1 << 26
# The problems of a record that do not affect the records after it.
_ONE_RECORD = ("bad_payload_checksum", "record_too_large")


@dataclass(frozen=True)
class Scan:
    """The result of the first pass over a file.

    Attributes:
      position: of the file among the inputs.
      path: of the file.
      good: number of records that can be copied.
      marks: (good records before, byte offset) of places to start reading at; the first is the file's beginning.
      rejects: the records that cannot be copied.
    """

    position: int
    path: str
    good: int
    marks: tuple[tuple[int, int], ...]
    rejects: tuple[Reject, ...]


def scan_file(position: int, path: str) -> Scan:
    """Reads a file from beginning to end.

    Raises:
      errors.StorageError: the file cannot be read.
    """
    good, marks, rejects = 0, [(0, 0)], []
    for record in framing.read_file(path):
        if record.problem:
            rejects.append(_reject(record, path))
            continue
        if record.offset is not None and record.offset - marks[-1][1] >= MARK_BYTES:
            marks.append((good, record.offset))
        good += 1
    return Scan(position, path, good, tuple(marks), tuple(rejects))


def _reject(record: Record, path: str) -> Reject:
    reason, detail = record.problem
    name = f"{path.rpartition('/')[2]}__{record.index}"
    return Reject(printable(name), f"{reason.replace('_', ' ')}: {detail}", path, reason not in _ONE_RECORD)


def payloads(scans: Iterable[Scan], start: int, stop: int) -> Iterator[bytes]:
    """The good records `start` to `stop` of all files in sequence.

    Raises:
      errors.StorageError: a file cannot be read, or has changed since it was scanned.
    """
    before = 0
    for scan in scans:
        first, last = max(start - before, 0), min(stop - before, scan.good)
        if first < last:
            yield from _file_payloads(scan, first, last)
        before += scan.good


def _file_payloads(scan: Scan, start: int, stop: int) -> Iterator[bytes]:
    before, offset = max(mark for mark in scan.marks if mark[0] <= start)
    good = (record.payload for record in _records_from(scan.path, offset) if record.problem is None)
    copied = 0
    for payload in itertools.islice(good, start - before, stop - before):
        yield payload
        copied += 1
    if copied < stop - start:
        raise errors.StorageError(f"{scan.path} has changed since its records were counted: run again")


def _records_from(path: str, offset: int) -> Iterator[Record]:
    if not offset:
        yield from framing.read_file(path)
        return
    with open_random_access(path) as stream:
        stream.seek(offset)
        yield from framing.read_stream(stream, compressed=False)


def copy_range(index: int, scans: Iterable[Scan], output: OutputNames) -> ShardReport:
    """Writes and publishes one output shard.

    Args:
      index: the shard's number.
      scans: of all input files, in any order.
      output: names of the output files.

    Returns:
      What was written; the report of the first shard contains the rejects of all files.

    Raises:
      errors.StorageError: an input cannot be read, or the shard cannot be written.
    """
    scans = sorted(scans, key=lambda scan: scan.position)
    total = sum(scan.good for scan in scans)
    start, stop = (bound * total // output.shards for bound in (index, index + 1))
    with TFRecordWriter(output, index) as writer:
        for payload in payloads(scans, start, stop):
            writer.write(payload)
    rejects = () if index else tuple(reject for scan in scans for reject in scan.rejects)
    return ShardReport(index, writer.written, rejects=rejects)


@dataclass
class Reshard(beam.PTransform):
    """A pipeline's start -> `ShardReport`s of the published shards.

    Args:
      paths: TFRecord files, in order.
      output: names of the output files, and how many shards.
    """

    paths: Sequence[str]
    output: OutputNames

    def expand(self, start: beam.pvalue.PBegin) -> beam.PCollection[ShardReport]:
        scans = (
            start
            | "Files" >> beam.Create(list(enumerate(self.paths)))
            | "BalanceFiles" >> beam.Reshuffle()
            | "ScanFile" >> beam.MapTuple(scan_file)
        )
        return (
            start
            | "Shards" >> beam.Create(range(self.output.shards))
            | "BalanceShards" >> beam.Reshuffle()
            | "CopyRange" >> beam.Map(copy_range, beam.pvalue.AsList(scans), self.output)
        )
