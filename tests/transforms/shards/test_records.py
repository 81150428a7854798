"""TFRecord framing, against TensorFlow's own writer and reader, and under every kind of damage."""

import gzip
import io
import itertools
import operator
import struct
import tracemalloc
import zipfile
import zlib

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from odin_beam.transforms import errors, limits
from odin_beam.transforms.shards import framing, records
from odin_beam.transforms.storage import file_system, reading
from tests.helpers import samples

SIZES = [0, 1, 5, 11, 12, 4096, 8191, 70_000, framing._COPY_BYTES, framing._COPY_BYTES + 3, 2]
SMALL = [b"", b"first", b"2" * 300, b"third one", b"4"]
# Header and footer of a record.
HEADER, FRAMING = 12, 16
MEGABYTE = 1 << 20


def payloads_of(sizes) -> list[bytes]:
    rng = np.random.default_rng(0)
    return [rng.bytes(size) for size in sizes]


def write_with_tensorflow(path, payloads, compression="") -> bytes:
    with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type=compression)) as writer:
        for payload in payloads:
            writer.write(payload)
    return path.read_bytes()


def read(path, data: bytes | None = None) -> list[records.Record]:
    if data is not None:
        path.write_bytes(data)
    return list(framing.read_file(str(path)))


def good(payloads, compressed=False) -> list[records.Record]:
    """What reading an intact shard gives."""
    offsets = np.cumsum([0] + [FRAMING + len(payload) for payload in payloads])
    return [
        records.Record(i, None if compressed else int(offset), payload)
        for i, (offset, payload) in enumerate(zip(offsets, payloads, strict=False))
    ]


def one_reject(found: list[records.Record], reason: str, before: list[records.Record]) -> str:
    """Asserts that `before` was read whole and that all the rest is one record of this reason; gives the detail."""
    assert found[:-1] == before
    last = found[-1]
    assert (last.index, last.payload) == (len(before), None)
    assert last.problem[0] == reason
    return last.problem[1]


def flipped(data: bytes, at: int, mask: int = 0x10) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def header(length: int) -> bytes:
    """A record header with a right checksum, by the format's definition."""
    packed = struct.pack("<Q", length)
    crc = google_crc32c.value(packed)
    return packed + struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_reads_what_tensorflow_wrote(tmp_path, compression):
    path, payloads = tmp_path / ("x.tfrecord" + ".gz" * bool(compression)), payloads_of(SIZES)
    write_with_tensorflow(path, payloads, compression)
    assert read(path) == good(payloads, compressed=bool(compression))


def test_frame_gives_the_bytes_that_tensorflow_writes(tmp_path):
    payloads = payloads_of(SIZES)
    expected = write_with_tensorflow(tmp_path / "x.tfrecord", payloads)
    assert b"".join(map(framing.frame, payloads)) == expected


@pytest.mark.parametrize("name", ["x.tfrecord", "x.tfrecord.gz"])
def test_tensorflow_reads_framed_records(tmp_path, name):
    payloads = payloads_of(SIZES)
    path = samples.write_shard(tmp_path / name, payloads)
    dataset = tf.data.TFRecordDataset(str(path), "GZIP" if name.endswith(".gz") else "")
    assert list(dataset.as_numpy_iterator()) == payloads


def test_the_offset_is_where_the_record_can_be_read_back(tmp_path):
    payloads = payloads_of([3, 0, 1000, 17])
    data = write_with_tensorflow(tmp_path / "x.tfrecord", payloads)
    for record in read(tmp_path / "x.tfrecord"):
        assert data[record.offset :].startswith(framing.frame(payloads[record.index]))


@pytest.mark.parametrize("name", ["x.tfrecord", "x.tfrecord.gz"])
def test_an_empty_shard_has_no_records(tmp_path, name):
    assert read(samples.write_shard(tmp_path / name, [])) == []


@pytest.mark.parametrize("name", ["s.tfrecord.gz", "S.TFRECORD.GZ", "s.tfrecord.Gz"])
def test_a_gzip_shard_is_known_by_its_ending_in_either_case(tmp_path, name):
    data = gzip.compress(b"".join(map(framing.frame, SMALL)))
    assert read(tmp_path / name, data) == good(SMALL, compressed=True)


def test_gzip_members_in_a_row_are_one_shard(tmp_path):
    data = b"".join(map(framing.frame, SMALL))
    for cut in (0, 20, 29, len(data)):
        parts = gzip.compress(data[:cut]) + gzip.compress(data[cut:])
        assert read(tmp_path / "x.gz", parts) == good(SMALL, compressed=True)


@pytest.mark.parametrize("name", ["x.tfrecord", "x.tfrecord.gz"])
@pytest.mark.parametrize("index", range(1, len(SMALL)))
@pytest.mark.parametrize("place", ["first byte", "last byte", "checksum"])
def test_a_changed_payload_is_one_bad_record(tmp_path, name, index, place):
    data, expected = bytearray(b"".join(map(framing.frame, SMALL))), good(SMALL)
    start = expected[index].offset + HEADER
    data = flipped(
        data, start + {"first byte": 0, "last byte": len(SMALL[index]) - 1, "checksum": len(SMALL[index])}[place]
    )
    if name.endswith(".gz"):
        data, expected = gzip.compress(data), good(SMALL, compressed=True)
    expected[index] = records.Record(
        index, expected[index].offset, None, ("bad_payload_checksum", f"{len(SMALL[index])} bytes")
    )
    assert read(tmp_path / name, data) == expected


@pytest.mark.parametrize("index", range(len(SMALL)))
@pytest.mark.parametrize("byte", range(HEADER))
def test_a_changed_length_ends_the_shard(tmp_path, index, byte):
    data, expected = b"".join(map(framing.frame, SMALL)), good(SMALL)
    offset = expected[index].offset
    found = read(tmp_path / "x", flipped(data, offset + byte))
    assert one_reject(found, "bad_length_checksum", expected[:index]) == f"record header at byte {offset}"
    assert found[-1].offset == offset


def test_a_cut_shard_keeps_what_came_before(tmp_path):
    data, expected = b"".join(map(framing.frame, SMALL)), good(SMALL)
    whole = {record.offset: record.index for record in expected} | {len(data): len(SMALL)}
    for cut in range(len(data)):
        found = read(tmp_path / "x", data[:cut])
        if cut in whole:
            assert found == expected[: whole[cut]]
            continue
        before = [record for record in expected if record.offset + FRAMING + len(record.payload) <= cut]
        detail = one_reject(found, "truncated_shard", before)
        start = found[-1].offset
        if cut - start < HEADER:
            assert detail == f"the file ends inside the record header at byte {start}"
        else:
            assert detail == f"the last record declares {len(SMALL[len(before)])} bytes; the file ends before"


def test_a_cut_gzip_shard_keeps_what_can_be_decompressed(tmp_path):
    payloads = payloads_of([3000] * 20)
    data = gzip.compress(b"".join(map(framing.frame, payloads)))
    for cut in [*range(2, 30), *range(30, len(data), 997), *range(len(data) - 12, len(data))]:
        there = zlib.decompressobj(wbits=31).decompress(data[:cut])
        before = good(payloads, compressed=True)[: len(there) // (3000 + FRAMING)]
        detail = one_reject(read(tmp_path / "x.gz", data[:cut]), "truncated_shard", before)
        assert detail == "the gzip stream ends early"


@pytest.mark.parametrize("at", [-8, -5, -4, -1], ids=["crc", "crc end", "size", "size end"])
def test_a_gzip_trailer_that_does_not_fit_rejects_no_good_record(tmp_path, at):
    data = gzip.compress(b"".join(map(framing.frame, SMALL)))
    found = read(tmp_path / "x.gz", flipped(data, len(data) + at))
    one_reject(found, "bad_gzip", good(SMALL, compressed=True))


@pytest.mark.parametrize(
    "data",
    [
        b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 100,
        b"\x1f\x8b\x07" + bytes(100),
        b"no gzip at all",
        b"".join(map(framing.frame, SMALL)),
    ],
    ids=["garbage after the header", "unknown method", "text", "plain TFRecord"],
)
def test_what_is_no_gzip_under_its_name_is_one_bad_record(tmp_path, data):
    assert one_reject(read(tmp_path / "x.gz", data), "bad_gzip", [])


def test_garbage_behind_the_gzip_stream_rejects_no_good_record(tmp_path):
    data = gzip.compress(b"".join(map(framing.frame, SMALL)))
    one_reject(read(tmp_path / "x.gz", data + b"garbage"), "bad_gzip", good(SMALL, compressed=True))


def _file(write) -> bytes:
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


PICTURE = np.zeros((8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (samples.encoded(PICTURE, "PNG"), "a PNG image"),
        (samples.encoded(PICTURE, "JPEG"), "a JPEG image"),
        (samples.encoded(PICTURE, "GIF"), "a GIF image"),
        (_file(lambda f: zipfile.ZipFile(f, "w").writestr("a", "b" * 30)), "a zip archive"),
        (gzip.compress(b"".join(map(framing.frame, SMALL))), "gzip (its name should end in .gz)"),
        (zlib.compress(b"".join(map(framing.frame, SMALL))), "zlib: write it with GZIP, or without compression"),
        (
            b"version https://git-lfs.github.com/spec/v1\nsize 12\n",
            "a Git LFS pointer (fetch the files: `git lfs pull`)",
        ),
        (_file(lambda f: pq.write_table(pa.table({"a": [1]}), f)), "Parquet"),
        (_file(lambda f: np.save(f, PICTURE)), "a NumPy array"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_another_format_is_named(tmp_path, data, kind):
    assert one_reject(read(tmp_path / "x.tfrecord", data), "not_tfrecord", []) == f"the file looks like {kind}"
    # Further on in a shard such bytes are damage.
    found = read(tmp_path / "x.tfrecord", framing.frame(b"good") + data)
    one_reject(found, "bad_length_checksum", good([b"good"]))


@pytest.mark.parametrize("data", [b"a text file, say", bytes(12), b"BM" + bytes(60)])
def test_an_unknown_format_has_a_bad_length(tmp_path, data):
    assert one_reject(read(tmp_path / "x", data), "bad_length_checksum", []) == "record header at byte 0"


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("length", [2**64 - 1, 2**60, limits.MAX_RECORD_BYTES + 1, limits.MAX_RECORD_BYTES])
def test_a_declared_length_is_not_allocated(tmp_path, compressed, length):
    data = framing.frame(b"good") + header(length) + bytes(3 * MEGABYTE)
    path = tmp_path / ("x.gz" if compressed else "x")
    path.write_bytes(gzip.compress(data) if compressed else data)
    del data
    tracemalloc.start()
    try:
        found = read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    one_reject(found, "truncated_shard", good([b"good"], compressed))
    # The file's own bytes twice, and buffers.
    assert peak < 12 * MEGABYTE


@pytest.mark.parametrize("copy_bytes", [7, framing._COPY_BYTES])
def test_a_record_above_the_limit_is_skipped(tmp_path, monkeypatch, copy_bytes):
    monkeypatch.setattr(limits, "MAX_RECORD_BYTES", 20)
    monkeypatch.setattr(framing, "_COPY_BYTES", copy_bytes)
    payloads = [b"a" * 20, b"b" * 21, b"", b"c" * 1000, b"d"]
    path, expected = samples.write_shard(tmp_path / "x", payloads), good(payloads)
    for index in (1, 3):
        detail = f"{len(payloads[index])} bytes; the limit is 20"
        expected[index] = records.Record(index, expected[index].offset, None, ("record_too_large", detail))
    assert read(path) == expected
    cut = path.read_bytes()[: expected[3].offset + 500]
    one_reject(read(path, cut), "truncated_shard", expected[:3])


@pytest.mark.parametrize("name", ["x.tfrecord", "x.tfrecord.gz"])
def test_storage_that_fails_is_an_error_and_never_a_record(tmp_path, monkeypatch, name):
    monkeypatch.setattr(reading, "RETRY_DELAYS", ())
    with pytest.raises(errors.StorageError, match=r"absent"):
        list(framing.read_file(f"{tmp_path}/absent{name}"))
    path = samples.write_shard(tmp_path / name, payloads_of([100_000] * 3))

    class Failing(io.FileIO):
        def read(self, size=-1):
            if self.tell() > 150_000:
                raise OSError(5, "Input/output error")
            return super().read(min(size, 1000))

    monkeypatch.setattr(file_system, "open_to_read", Failing)
    monkeypatch.setattr(reading, "READ_BUFFER_BYTES", 1000)
    found = []
    with pytest.raises(errors.StorageError, match=r"Input/output error"):
        for record in framing.read_file(str(path)):
            found.append(record)  # noqa: PERF402 - `extend` would lose what came before the error
    assert [record.problem for record in found] == [None]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8])
def test_batches_are_full_but_for_the_last(count):
    made = list(records.batches(good([b"x"] * count), 4))
    assert [len(batch) for batch in made] == [4] * (count // 4) + [count % 4] * (count % 4 > 0)
    assert list(itertools.chain(*made)) == good([b"x"] * count)


def test_a_batch_closes_early_where_its_bytes_reach_the_limit(monkeypatch):
    monkeypatch.setattr(limits, "MAX_BATCH_BYTES", 6)
    sizes = [3, 3, 5, 9, 1, 1, 0, 1, 7, 2]
    made = records.batches(good([bytes(size) for size in sizes]), 4)
    assert [[len(record.payload) for record in batch] for batch in made] == [[3, 3], [5, 9], [1, 1, 0, 1], [7], [2]]


def test_bad_records_count_for_the_batch_but_not_for_its_bytes(monkeypatch):
    monkeypatch.setattr(limits, "MAX_BATCH_BYTES", 2)
    bad = [records.Record(i, None, None, ("bad_payload_checksum", "1000 bytes")) for i in range(5)]
    assert [len(batch) for batch in records.batches(bad, 3)] == [3, 2]


def test_batches_read_no_further_than_the_batch_asked_for():
    taken = []
    made = records.batches((taken.append(record) or record for record in good([b"x"] * 10)), 3)
    next(made)
    assert len(taken) == 3


PLAIN = b"".join(map(framing.frame, SMALL))
GZIPPED = gzip.compress(PLAIN, mtime=0)


def _read_bounded(data: bytes, compressed: bool) -> list[records.Record]:
    """The records of a file of few bytes; indexes, memory and what a record may be are checked."""
    stream = gzip.GzipFile(fileobj=io.BytesIO(data)) if compressed else io.BytesIO(data)
    tracemalloc.start()
    try:
        found = list(framing.read_stream(stream, compressed))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEGABYTE
    assert [record.index for record in found] == list(range(len(found)))
    assert all((record.payload is None) == (record.problem is not None) for record in found)
    assert all((record.offset is None) == compressed for record in found)
    # No damage passes the checksums.
    assert {record.payload for record in found if record.payload is not None} <= set(SMALL)
    return found


@samples.fuzzed(300)
@given(samples.damaged(PLAIN))
def test_any_damage_to_a_plain_shard_keeps_the_intact_beginning(data):
    intact = sum(itertools.takewhile(bool, map(operator.eq, data, PLAIN)))
    before = [record for record in good(SMALL) if record.offset + FRAMING + len(record.payload) <= intact]
    assert _read_bounded(data, compressed=False)[: len(before)] == before


@samples.fuzzed(300)
@given(samples.damaged(GZIPPED))
def test_any_damage_to_a_gzip_shard_ends_it_at_worst(data):
    found = _read_bounded(data, compressed=True)
    if data.startswith(GZIPPED):
        assert found[: len(SMALL)] == good(SMALL, compressed=True)


@samples.fuzzed(100)
@given(st.binary(max_size=100), st.booleans())
def test_any_bytes_can_be_read(data, compressed):
    stream = gzip.GzipFile(fileobj=io.BytesIO(data)) if compressed else io.BytesIO(data)
    found = list(framing.read_stream(stream, compressed))
    assert [record.payload for record in found] == [None] * bool(data)
