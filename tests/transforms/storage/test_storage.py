"""Files listed, read through trouble, and published whole."""

import gzip
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
from apache_beam.io.filesystem import BeamIOError, FileSystem
from apache_beam.io.filesystems import FileSystems
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from odin_beam.transforms import errors
from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.storage import file_system, listing, paths, reading, writing
from odin_beam.transforms.storage.file_system import FileStat

CONTENT = np.random.default_rng(0).bytes(10_000)


class CloudError(Exception):
    """As Google's client raises: no OSError, but an HTTP status."""

    def __init__(self, code: int):
        super().__init__(f"{code} from the cloud")
        self.code = code


class TroubledStorage:
    """Stands in for `file_system.open_to_read`: counts the attempts and fails in those that `trouble` names.

    Reads give at most 64 bytes, so that failures fall between parts of one request too.
    """

    def __init__(self, trouble, error: Exception | None = None):
        self.trouble, self.error = trouble, error or OSError(5, "Input/output error")
        self.opened, self.streams, self.reads = 0, [], 0

    def open(self, path):
        self.opened += 1
        if "open" in self.trouble:
            raise self.error
        self.streams.append(open(path, "rb"))  # noqa: SIM115 - whether it is closed is what is tested
        return SimpleNamespace(read=self._read, seek=self.streams[-1].seek, close=self.streams[-1].close)

    def _read(self, size):
        self.reads += 1
        if self.reads in self.trouble:
            raise self.error
        return self.streams[-1].read(min(size, 64))


@pytest.fixture
def troubled(monkeypatch):
    """Puts a `TroubledStorage` in place of the real one, without waiting between attempts."""

    def put(trouble, error=None, delays=(0, 0)):
        made = TroubledStorage(trouble, error)
        monkeypatch.setattr(file_system, "open_to_read", made.open)
        monkeypatch.setattr(reading, "RETRY_DELAYS", delays)
        monkeypatch.setattr(reading, "READ_BUFFER_BYTES", 100)
        return made

    return put


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "shard.tfrecord"
    path.write_bytes(CONTENT)
    return str(path)


def names(folder) -> list[str]:
    """Every file below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a/b", "/here/a/b"),
        ("../a", "/a"),
        ("/a//b/../c/", "/a/c"),
        ("~/x", "/home/me/x"),
        ("gs://bucket/a/../b", "gs://bucket/a/../b"),
    ],
)
def test_absolute_path_makes_local_paths_absolute_and_leaves_others(monkeypatch, given, expected):
    monkeypatch.setattr(os, "getcwd", lambda: "/here")
    monkeypatch.setenv("HOME", "/home/me")
    assert paths.absolute_path(given) == expected


@pytest.mark.parametrize(("path", "local"), [("/a/b", True), ("a=b", True), ("gs://b/x", False), ("s3://b/x", False)])
def test_is_local(path, local):
    assert paths.is_local(path) == local


def test_list_files_gives_matches_sorted_with_size_and_time(tmp_path):
    for i, name in enumerate(["b.x", "a.x", "c.y", "sub/d.x", "sub/e.x/f.x"]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(i))
        os.utime(path, (100 + i, 200.5 + i))
    assert listing.list_files(f"{tmp_path}/*.x") == [
        FileStat(f"{tmp_path}/a.x", 1, 201.5),
        FileStat(f"{tmp_path}/b.x", 0, 200.5),
    ]
    below = [stat.path for stat in listing.list_files(f"{tmp_path}/**.x")]
    assert below == [f"{tmp_path}/{name}" for name in ("a.x", "b.x", "sub/d.x", "sub/e.x/f.x")]


def test_list_files_without_duplicates_and_folder_markers(monkeypatch):
    found = [FileStat(f"gs://b/in/{name}", 1, 2.0) for name in ("z", "a", "z", "")]
    monkeypatch.setattr(file_system, "match", lambda pattern, follow_links: found)
    assert [stat.path for stat in listing.list_files("gs://b/in/*")] == ["gs://b/in/a", "gs://b/in/z"]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text("ab/*?[]!^\\.", max_size=8), st.lists(st.text("ab/]^.!", min_size=1, max_size=6), max_size=6))
def test_a_local_glob_means_what_beam_means_by_it(pattern, names):
    assume(not any(part in pattern for part in ("[]", "[!]", "/**/")))
    beams = re.compile(FileSystem.translate_pattern(pattern))
    assert [file_system.matches(pattern, name) for name in names] == [bool(beams.match(name)) for name in names]


def test_a_glob_without_a_double_star_does_not_walk_the_folders_below(tmp_path, monkeypatch):
    for name in ("a.x", "sub/b.x", "sub/deep/c.x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    looked_at, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: (looked_at.append(folder), scandir(folder))[1])
    assert [stat.path for stat in listing.list_files(f"{tmp_path}/*/*.x")] == [f"{tmp_path}/sub/b.x"]
    assert looked_at == [str(tmp_path), f"{tmp_path}/sub"]


@pytest.mark.parametrize("pattern", ["*.nothing", "no/such/folder/*", "no-such-file", "", "folder"])
def test_list_files_is_empty_where_no_file_matches(tmp_path, pattern):
    (tmp_path / "folder").mkdir()
    assert listing.list_files(f"{tmp_path}/{pattern}") == []


def test_stat_file(file, tmp_path):
    os.utime(file, (1, 1234.25))
    assert listing.stat_file(file) == FileStat(file, len(CONTENT), 1234.25)
    assert listing.stat_file(f"{tmp_path}/absent") is None
    assert listing.stat_file(f"{file}/below/a/file") is None


@pytest.mark.parametrize(
    "ask", [listing.list_files, listing.stat_file, reading.read_bytes, reading.open_file, reading.open_seekable]
)
def test_a_storage_that_nothing_serves_is_a_storage_error_that_names_the_path(monkeypatch, ask):
    monkeypatch.setattr(reading, "RETRY_DELAYS", ())
    with pytest.raises(StorageError, match=r"nosuch://b/x"):
        ask("nosuch://b/x")


def test_files_are_read_as_stored(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"content"))
    with reading.open_file(str(path)) as stream, reading.open_seekable(str(path)) as seekable:
        assert stream.read(2) == b"\x1f\x8b"
        seekable.seek(1)
        assert seekable.read(1) == b"\x8b"
    assert gzip.decompress(reading.read_bytes(str(path))) == b"content"


def test_reading_resumes_where_a_read_failed(troubled, file):
    trouble = troubled(range(3, 10_000, 3), delays=(0,))
    with reading.open_file(file) as stream:
        assert stream.read(1234) + stream.read(1) + stream.read() == CONTENT
        assert stream.read(1) == b""
    assert stream.closed
    assert trouble.opened > 50
    assert all(stream.closed for stream in trouble.streams)


@pytest.mark.parametrize("where", ["open", "read", "later"])
def test_reading_gives_up_after_the_delays_and_names_file_and_cause(troubled, file, monkeypatch, where):
    trouble = troubled({"open": ["open"], "read": range(1, 99), "later": range(5, 99)}[where], delays=(0.25, 7.0))
    slept = []
    monkeypatch.setattr(reading.time, "sleep", slept.append)
    with pytest.raises(StorageError, match=rf"^cannot read {file}: Input/output error$"):
        reading.read_bytes(file)
    assert slept == [0.25, 7.0]
    assert trouble.opened == 3
    assert all(stream.closed for stream in trouble.streams)


@pytest.mark.parametrize("code", [429, 500, 503])
def test_passing_cloud_trouble_is_retried(troubled, file, code):
    trouble = troubled([1, 2, 7, 8], CloudError(code))
    assert reading.read_bytes(file) == CONTENT
    assert trouble.opened == 5


@pytest.mark.parametrize("where", [["open"], [2]], ids=["open", "read"])
@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory"),
        PermissionError(13, "Permission denied"),
        IsADirectoryError(21, "Is a directory"),
        NotADirectoryError(20, "Not a directory"),
        *map(CloudError, (401, 403, 404)),
    ],
    ids=lambda error: str(getattr(error, "code", type(error).__name__)),
)
def test_a_file_that_is_gone_or_denied_is_not_tried_again(troubled, file, where, error):
    trouble = troubled(where, error)
    with pytest.raises(StorageError, match=rf"^cannot read {file}: {error.args[-1]}$"):
        reading.read_bytes(file)
    assert trouble.opened == 1


@pytest.mark.parametrize("opener", [reading.open_file, reading.open_seekable, reading.read_bytes])
def test_opening_an_absent_file_says_so(tmp_path, opener):
    with pytest.raises(StorageError, match=rf"^cannot read {tmp_path}/absent: No such file or directory$"):
        opener(f"{tmp_path}/absent")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("two\n  lines"), "two lines"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 1000), "x" * 300),
        (BeamIOError("Match failed"), "Match failed"),
        (BeamIOError("Rename failed", {("a", "b"): PermissionError(13, "Permission denied")}), "Permission denied"),
        (BeamIOError("Match failed", {"a": BeamIOError("List failed", {"b": OSError(5, "Bad disk")})}), "Bad disk"),
        (BeamIOError("Rename failed", {"a": OSError(OSError(21, "Is a directory"))}), "Is a directory"),
        (BeamIOError("Copy failed", {"a": 404}), "404"),
    ],
)
def test_cause_is_the_innermost_reason_in_one_line(error, text):
    assert errors.cause(error) == text


def test_temporary_paths_differ_and_lie_in_a_folder_of_their_own():
    paths = {writing.temporary_path("/out", "x") for _ in range(100)}
    assert len(paths) == 100
    assert {os.path.dirname(path) for path in paths} == {"/out/odin-beam-tmp"}


@pytest.mark.parametrize("before", [None, b"old and longer"])
def test_publish_moves_the_file_and_replaces_what_was_there(tmp_path, before):
    final, temporary = tmp_path / "new/folder/final", tmp_path / "temporary"
    if before:
        final.parent.mkdir(parents=True)
        final.write_bytes(before)
    temporary.write_bytes(b"new")
    writing.publish(str(temporary), str(final))
    assert final.read_bytes() == b"new"
    assert names(tmp_path) == ["new/folder/final"]


def test_publish_without_the_temporary_file_keeps_what_was_there(file, tmp_path):
    with pytest.raises(StorageError, match=rf"^cannot write {file}: No such file or directory$"):
        writing.publish(f"{tmp_path}/absent", file)
    assert reading.read_bytes(file) == CONTENT


@pytest.mark.parametrize("name", ["x.json", "new/folder/x.json", "x.gz", "x[1]*?.json"])
def test_write_bytes_writes_and_replaces_and_leaves_nothing_else(tmp_path, name):
    for data in (b"first, longer", b"second", b""):
        writing.write_bytes(f"{tmp_path}/{name}", data)
        assert (tmp_path / name).read_bytes() == data
        assert names(tmp_path) == [name]


class _FullDisk:
    """A stream that takes part of the data, then refuses."""

    def __init__(self, path, **_):
        self.stream = open(path, "wb")  # noqa: SIM115 - closed in __exit__

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()

    def write(self, data):
        self.stream.write(data[:3])
        self.stream.flush()
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("where", ["create", "rename"])
def test_write_bytes_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, where):
    def refuse(*_):
        raise BeamIOError("Rename operation failed", {"a": OSError(28, "No space left on device")})

    (tmp_path / "x.json").write_bytes(b"old")
    monkeypatch.setattr(file_system, where, _FullDisk if where == "create" else refuse)
    with pytest.raises(StorageError, match=rf"^cannot write {tmp_path}/x.json: No space left on device$"):
        writing.write_bytes(f"{tmp_path}/x.json", b"new content")
    assert (tmp_path / "x.json").read_bytes() == b"old"
    assert names(tmp_path) == ["x.json"]


@pytest.mark.parametrize("ends", [1, 2])
def test_write_bytes_withstands_the_end_of_another_run_on_the_folder_but_not_two(tmp_path, monkeypatch, ends):
    rename, ended = file_system.rename, []

    def late(source, destination):
        if len(ended) < ends:
            ended.append(writing.delete_temporary(str(tmp_path), []))
        rename(source, destination)

    monkeypatch.setattr(file_system, "rename", late)
    if ends == 1:
        writing.write_bytes(f"{tmp_path}/x.json", b"content")
        assert (tmp_path / "x.json").read_bytes() == b"content"
    else:
        with pytest.raises(StorageError, match=rf"^cannot write {tmp_path}/x.json: No such file or directory$"):
            writing.write_bytes(f"{tmp_path}/x.json", b"content")
    assert len(names(tmp_path)) == (ends == 1)


def test_write_bytes_where_a_file_stands_for_a_folder(file):
    with pytest.raises(StorageError, match=rf"^cannot write {file}/x: File exists$"):
        writing.write_bytes(f"{file}/x", b"")


@pytest.mark.parametrize("name", ["x", "x*", "x?", "[x]", "x[1"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_delete_takes_names_literally_and_leaves_the_neighbours(tmp_path, name, kind):
    for neighbour in ("x1", "x2/inside"):
        (tmp_path / neighbour).parent.mkdir(exist_ok=True)
        (tmp_path / neighbour).write_bytes(b"")
    if kind == "folder":
        (tmp_path / name / "a").mkdir(parents=True)
        (tmp_path / name / "a/b").write_bytes(b"")
    else:
        (tmp_path / name).write_bytes(b"")
    delete = writing.delete_folder if kind == "folder" else lambda path: writing.delete([path])
    delete(f"{tmp_path}/{name}")
    assert sorted(os.listdir(tmp_path)) == ["x1", "x2"]
    assert names(tmp_path) == ["x1", "x2/inside"]
    # It is not there any more, which is no error.
    delete(f"{tmp_path}/{name}")


@pytest.mark.filterwarnings("ignore:Possible nested set:FutureWarning")
@pytest.mark.parametrize("name", ["x", "x*", "x?", "[x]", "x[1"])
def test_delete_on_a_cloud_gives_a_glob_of_that_one_name(monkeypatch, name):
    globs = []
    monkeypatch.setattr(FileSystems, "exists", lambda path: True)
    monkeypatch.setattr(FileSystems, "delete", globs.extend)
    writing.delete([f"gs://b/{name}"])
    matches = re.compile(FileSystem.translate_pattern(globs[0])).match
    assert matches(f"gs://b/{name}")
    assert not any(matches(f"gs://b/{other}") for other in ("x1", "xx", "y") if other != name)


def test_delete_that_is_refused_is_a_storage_error(file, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(writing.os, "remove", refuse)
    with pytest.raises(StorageError, match=rf"^cannot remove {file}: Permission denied$"):
        writing.delete([file])


def test_delete_of_what_another_just_removed_is_no_error(file, monkeypatch):
    remove = os.remove

    def remove_twice(path):
        remove(path)
        remove(path)

    monkeypatch.setattr(writing.os, "remove", remove_twice)
    writing.delete([file])
    assert not os.path.exists(file)


def test_delete_while_the_storage_is_down_is_a_storage_error(monkeypatch):
    def down(path):
        raise CloudError(503)

    monkeypatch.setattr(file_system, "exists", down)
    with pytest.raises(StorageError, match=r"gs://b/x: 503 from the cloud"):
        writing.delete(["gs://b/x"])


def test_delete_folder_on_a_cloud_removes_every_object_below(monkeypatch):
    objects = ["gs://b/run/tmp/a", "gs://b/run/tmp/c/d"]
    listed, removed = [], []

    def match(pattern, follow_links=False):
        listed.append(pattern)
        return [FileStat(path, 1, 0.0) for path in objects]

    monkeypatch.setattr(file_system, "match", match)
    monkeypatch.setattr(file_system, "exists", lambda path: True)
    monkeypatch.setattr(file_system, "delete", removed.append)
    writing.delete_folder("gs://b/run/tmp")
    assert listed == ["gs://b/run/tmp/**"]
    assert removed == objects


def test_delete_temporary_takes_the_remains_of_attempts_at_given_files_and_nothing_else(tmp_path):
    others = ["report.tmp", "run.json", "scores/source=a/x.parquet", "tmp/1", "x.parquet.12ab"]
    own = ["odin-beam-tmp/x.parquet.12ab", "odin-beam-tmp/x.parquet.34cd", "run.json.12ab.odin-beam-tmp"]
    for name in (*others, *own, "odin-beam-tmp/y.parquet.12ab"):
        writing.write_bytes(f"{tmp_path}/{name}", b"")
    writing.delete_temporary(str(tmp_path), {"x.parquet"})
    assert names(tmp_path) == sorted([*others, "odin-beam-tmp/y.parquet.12ab"])
    for _ in range(2):
        writing.delete_temporary(str(tmp_path), {"x.parquet", "y.parquet"})
        assert names(tmp_path) == others
        assert not (tmp_path / "odin-beam-tmp").exists()


def test_two_stars_between_slashes_match_no_folder_too(monkeypatch):
    names = ["gs://b/x/a.png", "gs://b/x/y/z/a.png", "gs://b/xa.png", "gs://b/x/a.jpg"]

    def match(globs):
        found = [name for name in names if re.match(FileSystem.translate_pattern(globs[0]), name)]
        return [
            SimpleNamespace(
                metadata_list=[SimpleNamespace(path=p, size_in_bytes=1, last_updated_in_seconds=0.0) for p in found]
            )
        ]

    monkeypatch.setattr(FileSystems, "match", match)
    assert [stat.path for stat in listing.list_files("gs://b/x/**/*.png")] == sorted(names[:2])
