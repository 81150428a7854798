"""TFRecord framing: splits a file into raw records, each with its index and byte offset.

A record on disk is its length (u64), the masked crc32c of the length, the payload, and the masked crc32c of the
payload, all little-endian
(https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details).
The bytes are not trusted: memory for a declared length is allocated only when the bytes have been read.
"""

import gzip
import itertools
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

import google_crc32c

from odin_beam.transforms import errors, limits
from odin_beam.transforms.images.recognition import recognised
from odin_beam.transforms.shards.records import Record
from odin_beam.transforms.storage import reading

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8
_COPY_BYTES = 1 << 20
# Enough to recognise a file of another kind.
_RECOGNISED_BYTES = 500


class _FramingBroken(Exception):
    """The rest of the stream cannot be read; the arguments are reason and detail."""


def masked_crc32c(data: bytes) -> int:
    """TFRecord's checksum: crc32c, rotated right by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """A record in its on-disk form."""
    length = struct.pack("<Q", len(payload))
    return b"".join((length, _FOOTER.pack(masked_crc32c(length)), payload, _FOOTER.pack(masked_crc32c(payload))))


def read_file(path: str) -> Iterator[Record]:
    """The records of a shard, gzip or not, retrying transient storage errors.

    Raises:
      errors.StorageError: the storage did not return the bytes. Damaged bytes never raise: they are returned as a
        `Record` with a problem.
    """
    with reading.open_file(path) as stream:
        if path.lower().endswith(".gz"):
            if not stream.peek(1):
                yield Record(0, None, None, ("bad_gzip", "an empty file"))
                return
            with gzip.GzipFile(fileobj=stream) as decompressed:
                yield from read_stream(decompressed, compressed=True)
        else:
            yield from read_stream(stream, compressed=False)


def read_one(path: str, index: int, offset: int | None) -> Record | None:
    """One record of a shard; None if the shard has fewer records.

    Args:
      path: of the shard, gzip or not.
      index: of the record.
      offset: of the record's header, if known: then nothing before it is read.

    Raises:
      errors.StorageError: the storage did not return the bytes.
    """
    if offset is None:
        return next(itertools.islice(read_file(path), index, None), None)
    with reading.open_seekable(path) as stream:
        stream.seek(offset)
        record = next(read_stream(stream, compressed=True), None)
    return record and replace(record, index=index, offset=offset)


def read_stream(stream: BinaryIO, compressed: bool) -> Iterator[Record]:
    """The records of an open shard.

    A bad payload checksum or an oversized record gives one bad record, and reading continues. A bad length checksum,
    a truncated file or a length beyond the end of the file ends the shard: the whole rest becomes one bad record.

    Args:
      stream: positioned at the first record.
      compressed: if true, offsets are None, since they cannot be used to read a record back.
    """
    index = position = 0
    while True:
        offset = None if compressed else position
        try:
            header = _read(stream, _HEADER.size)
            if not header:
                return
            length = _length(header, position, stream)
            record, used = _read_body(stream, length, index, offset)
        except _FramingBroken as broken:
            yield Record(index, offset, None, broken.args)
            return
        yield record
        index += 1
        position += _HEADER.size + used


def _length(header: bytes, position: int, stream: BinaryIO) -> int:
    if len(header) < _HEADER.size:
        raise _FramingBroken("truncated_shard", f"the file ends inside the record header at byte {position}")
    length, crc = _HEADER.unpack(header)
    if masked_crc32c(header[:8]) != crc:
        if position == 0 and (kind := foreign_format(header + _read(stream, _RECOGNISED_BYTES))):
            raise _FramingBroken("not_tfrecord", f"the file looks like {kind}")
        raise _FramingBroken("bad_length_checksum", f"record header at byte {position}")
    return length


def _read_body(stream: BinaryIO, length: int, index: int, offset: int | None) -> tuple[Record, int]:
    if length > limits.MAX_RECORD_BYTES:
        _skip(stream, length + _FOOTER.size)
        detail = f"{length} bytes; the limit is {limits.MAX_RECORD_BYTES}"
        return Record(index, offset, None, ("record_too_large", detail)), length + _FOOTER.size
    payload = _read(stream, length)
    footer = _read(stream, _FOOTER.size)
    if len(payload) < length or len(footer) < _FOOTER.size:
        raise _FramingBroken("truncated_shard", f"the last record declares {length} bytes; the file ends before")
    problem = None
    if masked_crc32c(payload) != _FOOTER.unpack(footer)[0]:
        payload, problem = None, ("bad_payload_checksum", f"{length} bytes")
    return Record(index, offset, payload, problem), length + _FOOTER.size


def _read(stream: BinaryIO, size: int) -> bytes:
    """Up to `size` bytes, read in pieces so that memory grows with the actual bytes, not with the declared size."""
    try:
        if size <= _COPY_BYTES:
            return stream.read(size)
        pieces = []
        while size and (piece := stream.read(min(size, _COPY_BYTES))):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)
    except EOFError as e:
        raise _FramingBroken("truncated_shard", "the gzip stream ends early") from e
    except (zlib.error, gzip.BadGzipFile) as e:
        raise _FramingBroken("bad_gzip", errors.cause(e)) from e


def _skip(stream: BinaryIO, size: int) -> None:
    while size:
        piece = _read(stream, min(size, _COPY_BYTES))
        if not piece:
            raise _FramingBroken("truncated_shard", f"the last record declares {size} bytes more than the file has")
        size -= len(piece)


def foreign_format(head: bytes) -> str | None:
    """What a file that is not TFRecord seems to be, judging by its first bytes; None if they are not recognised."""
    words = recognised(head)
    remarks = {"gzip": " (its name should end in .gz)", "zlib": ": write it with GZIP, or without compression"}
    return words and f"{words}{remarks.get(words, '')}"
