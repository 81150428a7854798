"""A user's table of images."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.launch.image_table import table_rows


def written(path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_csv_gives_uris_labels_and_ids(tmp_path):
    path = written(tmp_path / "m.csv", 'id,uri,label,remark\n007,/a/x.jpg,3,old\n,"/a, b.jpg",,\n8,b/y.jpg,0,\n')
    assert list(table_rows(path)) == [
        {"uri": "/a/x.jpg", "label": 3, "id": "007"},
        {"uri": "/a, b.jpg", "label": None, "id": None},
        {"uri": f"{tmp_path}/b/y.jpg", "label": 0, "id": "8"},
    ]


def test_a_byte_order_mark_windows_line_ends_and_line_breaks_in_other_fields_do_no_harm(tmp_path):
    (tmp_path / "m.csv").write_bytes('\ufeffuri,label,remark\r\n/a.jpg,2,"two\r\nlines"\r\n/b.jpg,-1,\r\n'.encode())
    assert list(table_rows(f"{tmp_path}/m.csv")) == [
        {"uri": "/a.jpg", "label": 2, "id": None},
        {"uri": "/b.jpg", "label": None, "id": None},
    ]


def test_parquet_gives_the_same_whatever_the_integer_and_string_types(tmp_path):
    table = pa.table(
        {
            "label": pa.array([1, None], pa.uint8()),
            "uri": pa.array(["/a.jpg", "b.jpg"]).dictionary_encode(),
            "more": [1.0, 2.0],
            "id": pa.array([12, 13]),
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    assert list(table_rows(f"{tmp_path}/m.parquet")) == [
        {"uri": "/a.jpg", "label": 1, "id": "12"},
        {"uri": f"{tmp_path}/b.jpg", "label": None, "id": "13"},
    ]


def test_a_list_of_uris_alone_will_do_and_keeps_its_order(tmp_path):
    path = written(tmp_path / "m.csv", "uri\n" + "".join(f"/{i}.jpg\n" for i in (3, 1, 2, 1)))
    assert [row["uri"] for row in table_rows(path)] == ["/3.jpg", "/1.jpg", "/2.jpg", "/1.jpg"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "path,label\n/a.jpg,1\n", "has no column 'uri'; its columns: path, label"),
        ("m.csv", "uri\n", "lists no images"),
        ("m.csv", "", "cannot be read"),
        ("m.csv", "uri,label\n/a.jpg,cat\n", "cannot be read: .*cat"),
        ("m.csv", "uri,label\n/a.jpg,1\n,2\n", "row 2: None is not the URI"),
        ("m.csv", 'uri\n"/a\nb.jpg"\n', "row 1: .* is not the URI"),
        ("m.csv", "uri\nftp://host/a.jpg\n", "row 1: no file system for ftp://"),
        ("m.csv", "uri,label\n/a.jpg\n", "cannot be read"),
        ("m.parquet", "garbage", "cannot be read"),
        ("m.txt", "uri\n/a.jpg\n", r"its name must end in \.csv or \.parquet"),
    ],
)
def test_a_bad_manifest_is_a_usage_error_that_says_where(tmp_path, name, text, message):
    path = written(tmp_path / name, text)
    with pytest.raises(UsageError, match=message) as caught:
        list(table_rows(path))
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parquet_file_with_a_column_twice_or_of_no_text_is_a_usage_error(tmp_path):
    path = f"{tmp_path}/m.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["/a.jpg"])] * 2, names=["uri", "uri"]), path)
    with pytest.raises(UsageError, match="more than one column 'uri'"):
        list(table_rows(path))
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"/a\xff.jpg"]).buffers())
    pq.write_table(pa.table({"uri": bad}), path)
    with pytest.raises(UsageError, match=r"cannot be read: .*UTF8"):
        list(table_rows(path))


def test_one_that_is_not_there_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        list(table_rows(f"{tmp_path}/gone.csv"))
