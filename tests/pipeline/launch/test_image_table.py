"""A user's table of images."""

import decimal
import math

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
        {"uri": "/a/x.jpg", "label": 3, "id": "007", "written": "/a/x.jpg"},
        {"uri": "/a, b.jpg", "label": None, "id": None, "written": "/a, b.jpg"},
        {"uri": f"{tmp_path}/b/y.jpg", "label": 0, "id": "8", "written": "b/y.jpg"},
    ]


def test_a_byte_order_mark_windows_line_ends_and_line_breaks_in_other_fields_do_no_harm(tmp_path):
    (tmp_path / "m.csv").write_bytes('\ufeffuri,label,remark\r\n/a.jpg,2,"two\r\nlines"\r\n/b.jpg,-1,\r\n'.encode())
    assert list(table_rows(f"{tmp_path}/m.csv")) == [
        {"uri": "/a.jpg", "label": 2, "id": None, "written": "/a.jpg"},
        {"uri": "/b.jpg", "label": None, "id": None, "written": "/b.jpg"},
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
        {"uri": "/a.jpg", "label": 1, "id": "12", "written": "/a.jpg"},
        {"uri": f"{tmp_path}/b.jpg", "label": None, "id": "13", "written": "b.jpg"},
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
        (
            "m.csv",
            "uri,label\n/a.jpg,cat\n",
            "row 1, column label: 'cat' is not a class index, and there is no .*labels.txt",
        ),
        ("m.csv", "uri,label\n/a.jpg,1\n,2\n", "row 2, column uri: None is not the URI"),
        ("m.csv", 'uri\n"/a\nb.jpg"\n', "row 1, column uri: .* is not the URI"),
        ("m.csv", "uri\nftp://host/a.jpg\n", "row 1: no file system for ftp://"),
        ("m.csv", "uri,label\n/a.jpg\n", "cannot be read"),
        ("m.csv", "uri;label\n/a.jpg;2\n/b.jpg;3.5\n", "row 2, column label: '3.5' is not a class index"),
        ("m.csv", "uri,label\n/a.jpg,inf\n", "row 1, column label: 'inf' is not a class index"),
        ("m.csv", "uri,label\n/a.jpg,1_0\n", "row 1, column label: '1_0' is not a class index"),
        ("m.csv", "uri,label\n/a.jpg,99999999999999999999\n", "row 1, column label: '9+' is not a class index"),
        ("m.csv", "uri, URI\n/a.jpg,1\n", "more than one column 'uri'"),
        ("m.csv", "file;label\n/a.jpg;1\n", "has no column 'uri'; its columns: file;label"),
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


EXPECTED = [
    {"uri": "/a b.jpg", "label": 3, "id": "007"},
    {"uri": "/ä.jpg", "label": None, "id": None},
    {"uri": "/c.jpg", "label": 0, "id": "x"},
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize(
    "text",
    [
        "uri,label,id\n/a b.jpg,3,007\n/ä.jpg,,\n/c.jpg,0,x\n",
        "uri,label,id\n/a b.jpg,3.0,007\n/ä.jpg,NaN,\n/c.jpg,0.0,x\n",
        "uri;label;id\r\n/a b.jpg;3;007\r\n/ä.jpg;-1.0;\r\n/c.jpg;0;x\r\n",
        'id\t"uri"\tlabel\n007\t/a b.jpg\t3\n\t"/ä.jpg"\tnull\nx\t/c.jpg\t0\n',
        " Uri , Label, ID\n /a b.jpg , 3, 007\n/ä.jpg,,\n/c.jpg,0,x\n",
        "uri,label,id,uri2\nfile:///a%20b.jpg,3,007,1\nfile://localhost/%C3%A4.jpg,,,b\nFILE:/c.jpg,+0,x,\n",
    ],
)
def test_a_csv_in_the_ways_that_programs_write_it(tmp_path, text, encoding):
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "m.csv").write_bytes((mark + text).encode(encoding))
    rows = list(table_rows(f"{tmp_path}/m.csv"))
    assert [{name: row[name] or None for name in ("uri", "id")} | {"label": row["label"]} for row in rows] == EXPECTED


def test_a_csv_of_latin_1_is_a_usage_error_that_says_what_to_do(tmp_path):
    (tmp_path / "m.csv").write_bytes("uri\n/\xe4.jpg\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"m\.csv cannot be read: .*: save it as UTF-8$"):
        list(table_rows(f"{tmp_path}/m.csv"))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0, math.nan, 0.0], [3, None, 0]),
        ([3.0, None, -1.0], [3, None, None]),
        (["3", "", "0.0"], [3, None, 0]),
        ([True, None, False], [1, None, 0]),
        (pa.array(["3", None, "3"]).dictionary_encode(), [3, None, 3]),
        ([decimal.Decimal("3.00"), None, None], [3, None, None]),
    ],
)
def test_labels_of_a_parquet_file_in_other_types(tmp_path, values, expected):
    pq.write_table(pa.table({"uri": ["/a", "/b", "/c"], "label": values}), tmp_path / "m.parquet")
    assert [row["label"] for row in table_rows(f"{tmp_path}/m.parquet")] == expected


def test_labels_of_a_parquet_file_that_are_none_are_named(tmp_path):
    pq.write_table(pa.table({"uri": ["/a", "/b"], "label": [1.0, 2.5]}), tmp_path / "m.parquet")
    with pytest.raises(UsageError, match=r"row 2, column label: 2\.5 is not a class index"):
        list(table_rows(f"{tmp_path}/m.parquet"))


def test_names_of_classes_are_labels_where_labels_txt_lies_beside_the_table(tmp_path):
    written(tmp_path / "labels.txt", "cat\nguinea pig\n7\n")
    path = written(tmp_path / "m.csv", "uri,label\n/a,guinea pig\n/b,cat\n/c,7\n/d,\n")
    assert [row["label"] for row in table_rows(path)] == [1, 0, 7, None]
    path = written(tmp_path / "m.csv", "uri,label\n/a,cat\n/b,dog\n")
    with pytest.raises(
        UsageError, match=r"row 2, column label: 'dog' is not a class index, and is not in .*labels\.txt"
    ):
        list(table_rows(path))
