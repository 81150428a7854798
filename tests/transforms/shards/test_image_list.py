"""Lists of loose images: written at launch, read a range at a time."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from odin_beam.transforms import errors, limits
from odin_beam.transforms.shards.contents import image_list
from odin_beam.transforms.shards.contents.image_list import ImageList, ListWriter, read_images, read_rows
from odin_beam.transforms.storage import file_system


@pytest.fixture
def fetchers():
    with ThreadPoolExecutor(3) as pool:
        yield pool


@pytest.fixture
def listing(tmp_path, monkeypatch):
    """Ten files in shards of four."""
    monkeypatch.setattr(image_list, "IMAGES_PER_SHARD", 4)
    rows = []
    for i in range(10):
        (tmp_path / f"{i}.jpg").write_bytes(bytes([i]) * (i + 1))
        rows.append({"uri": f"{tmp_path}/{i}.jpg", "label": i if i % 2 else None, "id": f"n{i}" if i % 3 else None})
    with ListWriter(f"{tmp_path}/list.parquet") as writer:
        for part in (rows[:1], rows[1:7], rows[7:]):
            writer.write(part)
    return [ImageList("list.parquet", part.first, part.count, part.digest) for part in writer.ranges]


def test_every_file_is_one_record_in_the_order_of_the_list(listing, tmp_path, fetchers):
    records = [record for part in listing for record in read_images(part, str(tmp_path), fetchers)]
    assert [record.index for record in records] == list(range(10))
    assert [record.payload for record in records] == [bytes([i]) * (i + 1) for i in range(10)]
    assert [record.label for record in records] == [i if i % 2 else None for i in range(10)]
    assert [record.id for record in records] == [f"n{i}" if i % 3 else f"{tmp_path}/{i}.jpg" for i in range(10)]
    assert [listing[0].uri(None, record, None) for record in records] == [f"{tmp_path}/{i}.jpg" for i in range(10)]
    assert {record.offset for record in records} == {None}


def test_a_file_that_is_not_there_or_too_large_is_one_bad_record(listing, tmp_path, fetchers, monkeypatch):
    monkeypatch.setattr(limits, "MAX_RECORD_BYTES", 3)
    os.remove(tmp_path / "1.jpg")
    os.remove(tmp_path / "2.jpg")
    (tmp_path / "2.jpg").mkdir()
    records = list(read_images(listing[0], str(tmp_path), fetchers))
    assert [(record.problem or ("good",))[0] for record in records] == [
        "good",
        "not_found",
        "not_found",
        "record_too_large",
    ]
    assert (records[1].id, records[1].uri) == ("n1", f"{tmp_path}/1.jpg")


def test_a_pipe_and_a_name_too_long_are_no_image_and_hold_nobody_up(listing, tmp_path, fetchers, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")
    os.symlink(tmp_path / "loop.jpg", tmp_path / "loop.jpg")
    uris = [f"{tmp_path}/pipe.jpg", f"{tmp_path}/{'x' * 300}.jpg", f"{tmp_path}/loop.jpg"]
    rows = [{"uri": uri, "id": None, "label": None, "size": None} for uri in uris]
    monkeypatch.setattr(image_list, "read_rows", lambda *_: rows)
    records = list(read_images(listing[0], str(tmp_path), fetchers))
    assert [record.problem[0] for record in records] == ["not_found"] * 3
    assert "not a regular file" in records[0].problem[1]


@pytest.mark.parametrize(
    "uri",
    ["/dev/zero", "/dev/stdin", "/dev/tty", "/dev/fd/0", "/proc/kcore", "/proc/self/environ", "/proc/../dev/null"],
)
def test_a_device_and_a_file_of_the_kernel_are_no_images(listing, tmp_path, fetchers, monkeypatch, uri):
    link = tmp_path / "link.jpg"
    link.symlink_to(uri)
    rows = [{"uri": path, "id": None, "label": None, "size": None} for path in (uri, str(link))]
    monkeypatch.setattr(image_list, "read_rows", lambda *_: rows)
    for record in read_images(listing[0], str(tmp_path), fetchers):
        assert record.problem[0] == "not_found"
        assert record.payload is None


def test_an_id_has_a_limit(listing, tmp_path, fetchers, monkeypatch):
    row = {"uri": "/gone.jpg", "id": "x" * 10**6, "label": None, "size": None}
    monkeypatch.setattr(image_list, "read_rows", lambda *_: [row])
    (record,) = read_images(listing[0], str(tmp_path), fetchers)
    assert len(record.id) == limits.MAX_ID_LENGTH


def test_a_file_that_was_listed_as_too_large_is_not_even_read(listing, tmp_path, fetchers, monkeypatch):
    row = {"uri": "/gone.jpg", "id": None, "label": None, "size": limits.MAX_RECORD_BYTES + 1}
    monkeypatch.setattr(image_list, "read_rows", lambda *_: [row])
    (record,) = read_images(listing[0], str(tmp_path), fetchers)
    assert record.problem[0] == "record_too_large"


def test_a_file_that_is_denied_is_trouble_of_the_whole_shard(listing, tmp_path, fetchers, monkeypatch):
    def denied(path, **_):
        raise PermissionError(13, "Permission denied")

    row = {"uri": "/x.jpg", "id": None, "label": None, "size": None}
    monkeypatch.setattr(image_list, "read_rows", lambda *_: [row])
    monkeypatch.setattr(file_system, "open_to_read", denied)
    with pytest.raises(errors.StorageError, match=r"cannot read /x\.jpg: Permission denied"):
        list(read_images(listing[0], str(tmp_path), fetchers))


def test_no_more_files_are_fetched_ahead_than_may_be_in_memory(listing, tmp_path, monkeypatch):
    monkeypatch.setattr(image_list, "FETCHES_AT_ONCE", 2)
    fetched, fetch = [], image_list._fetch
    monkeypatch.setattr(image_list, "_fetch", lambda index, row: (fetched.append(index), fetch(index, row))[1])
    with ThreadPoolExecutor(1) as pool:
        reading = read_images(listing[0], str(tmp_path), pool)
        next(reading)
        pool.submit(int).result()
        assert fetched == [0, 1, 2]
        reading.close()


def test_another_list_under_the_same_name_is_noticed(listing, tmp_path):
    with pytest.raises(errors.StorageError, match="has changed since it was listed"):
        read_rows(replace(listing[1], digest=listing[0].digest), str(tmp_path))


@pytest.mark.parametrize("content", [None, b"", b"PAR1 garbage PAR1"])
def test_a_list_that_is_absent_or_damaged_is_a_storage_error(listing, tmp_path, content):
    os.remove(tmp_path / "list.parquet")
    if content is not None:
        (tmp_path / "list.parquet").write_bytes(content)
    with pytest.raises(errors.StorageError, match=r"list\.parquet"):
        read_rows(listing[0], str(tmp_path))
