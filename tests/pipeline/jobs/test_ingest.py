"""`odin-beam ingest` as its user meets it: what the shards hold, what is refused, hostile archives."""

import csv
import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from odin_beam.pipeline.main import main
from odin_beam.transforms import errors, limits
from odin_beam.transforms.ingest import image_files, reshard
from odin_beam.transforms.ingest.members import Container, Member, Reject, member_id
from odin_beam.transforms.ingest.output_names import OutputNames
from odin_beam.transforms.ingest.shard_plan import plan_shards, read_plan, write_plans
from odin_beam.transforms.shards import framing
from odin_beam.transforms.storage import file_system, reading, writing
from tests.helpers import samples

PNGS = [samples.encoded(image) for image in samples.random_images(12, seed=5)]
JPEG = samples.encoded(samples.random_images(1, seed=6)[0], "JPEG")
# Written in an order that is not theirs.
FILES = {
    "dog/b.png": PNGS[0],
    "dog/a.png": PNGS[1],
    "cat/z.jpg": JPEG,
    "cat/y.png": PNGS[2],
    "bird/deep/owl/1.png": PNGS[3],
    "top.png": PNGS[4],
}
LABELS = {"cat": 0, "dog": 1, "owl": 2}


def folder(root, files=FILES):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def zip_file(path, files=FILES, compression=zipfile.ZIP_DEFLATED):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tar_file(path, files=FILES, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def ingest(images, output, shards=2, *more):
    images = ",".join(map(str, images)) if isinstance(images, list | tuple) else str(images)
    return main(["ingest", f"--images={images}", f"--output={output}", f"--shards={shards}", *more])


def shard_paths(prefix):
    return sorted(str(path) for path in Path(prefix).parent.glob(f"{Path(prefix).name}-*.tfrecord"))


def written(prefix):
    """[(id, label or None, image)] as TensorFlow reads the shards, in order."""
    rows = []
    for payload in tf.data.TFRecordDataset(shard_paths(prefix)).as_numpy_iterator():
        features = tf.train.Example.FromString(payload).features.feature
        assert set(features) <= {"image", "label", "id"}
        label = features["label"].int64_list.value[0] if "label" in features else None
        rows.append((features["id"].bytes_list.value[0].decode(), label, features["image"].bytes_list.value[0]))
    return rows


def ids(prefix):
    return [row[0] for row in written(prefix)]


def rejected(prefix):
    """{id: reason} of the table of rejects."""
    with open(f"{prefix}-rejected.csv", newline="", encoding="utf-8") as lines:
        return {row["id"]: row["reason"] for row in csv.DictReader(lines)}


def names(root):
    return sorted(path.name for path in Path(root).iterdir())


def usage_error(capsys):
    """The one line on standard error."""
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


# What comes out.

EXPECTED = [
    ("bird/deep/owl/1.png", 2, PNGS[3]),
    ("cat/y.png", 0, PNGS[2]),
    ("cat/z.jpg", 0, JPEG),
    ("dog/a.png", 1, PNGS[1]),
    ("dog/b.png", 1, PNGS[0]),
    ("top.png", None, PNGS[4]),
]


@pytest.mark.parametrize(
    "make",
    [
        lambda tmp: folder(tmp / "photos"),
        lambda tmp: f"{folder(tmp / 'photos')}/",
        lambda tmp: f"{folder(tmp / 'photos')}/**",
        lambda tmp: folder(tmp / "photos [1]"),
        lambda tmp: zip_file(tmp / "photos.zip"),
        lambda tmp: zip_file(tmp / "photos.ZIP", compression=zipfile.ZIP_STORED),
        lambda tmp: tar_file(tmp / "photos.tar"),
        lambda tmp: tar_file(tmp / "photos.tar.gz", mode="w:gz"),
        lambda tmp: tar_file(tmp / "photos.tgz", mode="w:gz"),
        lambda tmp: tar_file(tmp / "compressed-after-all.tar", mode="w:gz"),
        lambda tmp: tar_file(tmp / "not-compressed-at-all.tar.gz"),
    ],
    ids=[
        "folder",
        "folder/",
        "glob",
        "brackets",
        "zip",
        "stored",
        "tar",
        "tar.gz",
        "tgz",
        "gzipped.tar",
        "plain.tar.gz",
    ],
)
def test_folders_globs_and_archives_give_the_same_shards(make, tmp_path, capsys):
    prefix = tmp_path / "out" / "photos"
    assert ingest(make(tmp_path), prefix, 3) == 0
    assert written(prefix) == EXPECTED
    assert (tmp_path / "out" / "labels.txt").read_text().split() == list(LABELS)
    assert names(tmp_path / "out") == [
        "labels.txt",
        "photos-00000-of-00003.tfrecord",
        "photos-00001-of-00003.tfrecord",
        "photos-00002-of-00003.tfrecord",
        "photos-summary.json",
    ]
    printed = capsys.readouterr().out
    assert "6 images (5 labelled in 3 classes, 1 unlabelled) in 3 shards" in printed
    assert f"odin-beam score --model MODEL --output scores --input '{prefix}-*.tfrecord'" in printed


def test_running_twice_gives_the_same_bytes_and_leaves_nothing_of_the_first_run(tmp_path):
    photos, prefix = folder(tmp_path / "photos", {**FILES, "cat/notes.txt": b"no image"}), tmp_path / "out" / "p"
    assert ingest(photos, prefix) == 0
    first = {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")}
    assert ingest(photos, prefix) == 0
    assert first == {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")}
    (photos / "cat/notes.txt").unlink()
    assert ingest(photos, prefix) == 0
    assert "p-rejected.csv" in first
    assert "p-rejected.csv" not in names(tmp_path / "out")


def test_an_output_among_the_images_is_not_taken_for_images(tmp_path):
    photos = folder(tmp_path / "photos")
    folder(photos / "shards-unfinished", {"left-by-a-run-that-was-killed": b"?"})
    for _ in range(2):
        assert ingest(photos, photos / "shards") == 0
        assert written(photos / "shards") == EXPECTED


def test_order_is_that_of_the_arguments_then_of_the_paths_and_no_file_comes_twice(tmp_path):
    photos = folder(tmp_path / "photos")
    late = zip_file(tmp_path / "a.zip", {"x/2.png": PNGS[6], "x/1.png": PNGS[5]})
    assert ingest([f"{photos}/dog/*.png", late, photos], tmp_path / "out" / "p", 4) == 0
    assert ids(tmp_path / "out" / "p") == [
        *("dog/a.png", "dog/b.png"),
        *("x/1.png", "x/2.png"),
        *("bird/deep/owl/1.png", "cat/y.png", "cat/z.jpg", "top.png"),
    ]


@pytest.mark.parametrize("patterns", [["cat", "dog"], ["cat/*.jpg", "cat/*.png", "dog/*"]])
def test_class_folders_given_one_by_one_keep_their_names(tmp_path, patterns):
    photos = folder(tmp_path / "photos")
    assert ingest([f"{photos}/{pattern}" for pattern in patterns], tmp_path / "out" / "p") == 0
    rows = [("cat/y.png", 0), ("cat/z.jpg", 0), ("dog/a.png", 1), ("dog/b.png", 1)]
    assert sorted(row[:2] for row in written(tmp_path / "out" / "p")) == rows


def test_a_glob_may_match_archives(tmp_path):
    tar_file(tmp_path / "in" / "2.tar", {"b/1.png": PNGS[1]})
    zip_file(tmp_path / "in" / "1.zip", {"a/1.png": PNGS[0]})
    assert ingest(tmp_path / "in" / "*", tmp_path / "out" / "p") == 0
    assert [(row[0], row[1]) for row in written(tmp_path / "out" / "p")] == [("a/1.png", 0), ("b/1.png", 1)]


def test_more_shards_than_images_gives_empty_ones(tmp_path):
    photos = folder(tmp_path / "photos", {"1.png": PNGS[0], "2.png": PNGS[1]})
    assert ingest(photos, tmp_path / "out" / "p", 5) == 0
    assert len(shard_paths(tmp_path / "out" / "p")) == 5
    assert ids(tmp_path / "out" / "p") == ["1.png", "2.png"]


@given(st.integers(0, 50), st.integers(1, 60))
def test_shards_are_contiguous_and_even(count, shards):
    members = [Member(Container("folder", "/"), str(i), 0, 1) for i in range(count)]
    plans = plan_shards(members, [], shards)
    assert [member for plan in plans for member in plan.members] == members
    assert [plan.index for plan in plans] == list(range(shards))
    lengths = [len(plan.members) for plan in plans]
    assert max(lengths) - min(lengths) <= 1


def test_a_plan_is_read_back_as_it_was_written(tmp_path):
    latin = os.fsdecode(b"f\xfcchse/1.png")
    archive = Container("tar", f"{tmp_path}/{latin}.tar", 1234, 5.5)
    members = [Member(archive, latin, 512, 10), *(Member(Container("folder", "/x/"), str(i), 0, i) for i in range(3))]
    rejects = [Reject("a", "why", archive.path), Reject("b", "why", "/x/", damage=True)]
    plans = plan_shards(members, rejects, 6)
    write_plans(str(tmp_path / "plan.parquet"), plans)
    assert [read_plan(str(tmp_path / "plan.parquet"), index) for index in range(6)] == plans
    with pytest.raises(errors.StorageError):
        read_plan(str(tmp_path / "none.parquet"), 0)


def test_names_that_are_no_ascii(tmp_path):
    files = {"Füchse/ä.png": PNGS[0], "犬/1.png": PNGS[1]}
    assert ingest(zip_file(tmp_path / "a.zip", files), tmp_path / "out" / "p") == 0
    assert ids(tmp_path / "out" / "p") == ["Füchse/ä.png", "犬/1.png"]
    assert (tmp_path / "out" / "labels.txt").read_text(encoding="utf-8").split() == ["Füchse", "犬"]
    latin = os.fsencode(tmp_path) + b"/latin/f\xfcchse/1.png"
    os.makedirs(os.path.dirname(latin))
    Path(os.fsdecode(latin)).write_bytes(PNGS[0])
    (tmp_path / "latin" / "no.png").write_bytes(b"")
    assert ingest(tmp_path / "latin", tmp_path / "out" / "q", 1) == 0
    (record,) = framing.read_file(str(tmp_path / "out" / "q-00000-of-00001.tfrecord"))
    assert b"f\xfcchse/1.png" in record.payload


# Labels.


@pytest.mark.parametrize(
    "files",
    [
        {"only/1.png": PNGS[0], "only/2.png": PNGS[1]},
        {"1.png": PNGS[0], "2.png": PNGS[1]},
        {"images/1.png": PNGS[0], "annotations/1.xml": b"<xml/>"},
    ],
    ids=["one folder", "no folder", "a folder without images"],
)
def test_without_two_folders_of_images_there_are_no_labels(files, tmp_path, capsys):
    assert ingest(folder(tmp_path / "photos", files), tmp_path / "out" / "p") == 0
    assert {row[1] for row in written(tmp_path / "out" / "p")} == {None}
    assert "labels.txt" not in names(tmp_path / "out")
    assert "unlabelled" in capsys.readouterr().out


def test_class_names_give_the_order_of_labels(tmp_path):
    class_names = tmp_path / "classes.txt"
    class_names.write_bytes(b"owl\r\ndog\r\nfish\r\ncat\r\n\r\n")
    prefix = tmp_path / "out" / "p"
    assert ingest(folder(tmp_path / "photos"), prefix, 2, f"--class_names={class_names}") == 0
    assert [row[1] for row in written(prefix)] == [0, 3, 3, 1, 1, None]
    assert (tmp_path / "out" / "labels.txt").read_text() == "owl\ndog\nfish\ncat\n"
    one = folder(tmp_path / "one", {"dog/1.png": PNGS[0]})
    assert ingest(one, tmp_path / "out" / "q", 1, f"--class_names={class_names}") == 0
    assert [row[1] for row in written(tmp_path / "out" / "q")] == [1]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"cat\nowl\n", "folder 'dog' is not in --class_names"),
        (b"cat\ndog\ncat\n", "'cat' more than once"),
        (b"\n", "empty"),
        (None, "cannot read"),
    ],
)
def test_class_names_that_do_not_fit_are_a_usage_error(content, said, tmp_path, capsys):
    if content is not None:
        (tmp_path / "classes.txt").write_bytes(content)
    flag = f"--class_names={tmp_path / 'classes.txt'}"
    assert ingest(folder(tmp_path / "photos"), tmp_path / "out" / "p", 2, flag) == 2
    assert said in usage_error(capsys)
    assert not (tmp_path / "out").exists()


def test_other_labels_beside_the_shards_are_a_usage_error(tmp_path, capsys):
    photos = folder(tmp_path / "photos")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "labels.txt").write_text("apple\npear\n")
    assert ingest(photos, tmp_path / "out" / "p") == 2
    assert "labels.txt holds other class names" in usage_error(capsys)
    assert names(tmp_path / "out") == ["labels.txt"]
    (tmp_path / "out" / "labels.txt").write_text("cat\ndog\nowl\n")
    assert ingest(photos, tmp_path / "out" / "p") == 0


# What is not taken.


def test_files_that_are_no_images_are_counted_and_named(tmp_path, capsys):
    bad = {f"cat/{i}.txt": b"text" for i in range(11)}
    bad |= {"dog/empty.png": b"", "dog/only-the-signature.png": b"\x89PNG\r\n\x1a\n", "dog/half.png": PNGS[0][:20]}
    photos = folder(tmp_path / "photos", {**FILES, **bad, "dog/named.txt": PNGS[7], "cat/cut.png": PNGS[8][:60]})
    prefix = tmp_path / "out" / "p"
    assert ingest(photos, prefix) == 0
    assert set(rejected(prefix)) == set(bad)
    assert "not an image: 4 bytes" in rejected(prefix)["cat/0.txt"]
    # The content decides, and the header is enough: what cannot be decoded is for `score` to reject.
    assert {"dog/named.txt", "cat/cut.png"} <= set(ids(prefix))
    printed = capsys.readouterr().out
    assert "rejected: 14" in printed
    assert printed.count("not an image") == 10


def test_hidden_files_are_passed_over_in_silence(tmp_path):
    hidden = {".DS_Store": b"", ".git/x.png": PNGS[0], "cat/._y.png": b"", "__MACOSX/cat/._y.png": b""}
    for number, source in enumerate(
        (folder(tmp_path / "photos", {**FILES, **hidden}), zip_file(tmp_path / "p.zip", {**FILES, **hidden}))
    ):
        prefix = tmp_path / f"out{number}" / "p"
        assert ingest(source, prefix) == 0
        assert written(prefix) == EXPECTED
        assert not Path(f"{prefix}-rejected.csv").exists()


def test_a_file_that_vanishes_or_cannot_be_read_is_damage(tmp_path):
    file = folder(tmp_path / "photos") / "top.png"
    matched = image_files.match_files(str(tmp_path / "photos"))
    members, _ = image_files.list_members(matched)
    file.unlink()
    (tmp_path / "photos/cat/y.png").write_bytes(b"longer than it was" * 100)
    contents = {content.member.id: content for content in image_files.read_members(members)}
    assert contents["top.png"].damage
    assert "No such file" in contents["top.png"].problem
    assert "changed" in contents["cat/y.png"].problem
    assert contents["dog/a.png"].data == PNGS[1]


def test_nothing_but_other_files_exits_with_3(tmp_path, capsys):
    assert ingest(folder(tmp_path / "texts", {"a.txt": b"a"}), tmp_path / "out" / "p") == 3
    printed = capsys.readouterr().out
    assert "0 images" in printed
    assert "next:" not in printed
    assert list(rejected(tmp_path / "out" / "p")) == ["a.txt"]


# Hostile and damaged archives.


def special(name, member_type, linkname=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = member_type, linkname
    return info


def test_hostile_tar_members_do_no_harm(tmp_path):
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in (
            "../up.png",
            "a/../../up.png",
            "/abs.png",
            "C:\\x.png",
            "win\\dows.png",
            "./dot.png",
            "bell\a.png",
        ):
            info = tarfile.TarInfo(name)
            info.size = len(PNGS[0])
            archive.addfile(info, io.BytesIO(PNGS[0]))
        archive.addfile(special("link.png", tarfile.SYMTYPE, "/etc/passwd"))
        archive.addfile(special("hard.png", tarfile.LNKTYPE, "dot.png"))
        archive.addfile(special("device.png", tarfile.CHRTYPE))
        archive.addfile(special("pipe.png", tarfile.FIFOTYPE))
        archive.addfile(special("../folder", tarfile.DIRTYPE))
    before = {item for item in tmp_path.rglob("*")}
    prefix = tmp_path / "out" / "p"
    assert ingest(path, prefix, 1) == 0
    assert ids(prefix) == ["abs.png", "dot.png", "win/dows.png"]
    reasons = rejected(prefix)
    assert reasons["../up.png"] == reasons["a/../../up.png"] == "the name leads out of the archive"
    assert "drive letter" in reasons["C:\\x.png"]
    assert "control characters" in reasons["bell\\x07.png"]
    assert "links are not followed" in reasons["link.png"]
    assert "links are not followed" in reasons["hard.png"]
    assert "device" in reasons["device.png"]
    assert "device" in reasons["pipe.png"]
    assert len(reasons) == 8
    assert {item for item in tmp_path.rglob("*")} - before == {tmp_path / "out", *(tmp_path / "out").iterdir()}


def test_hostile_zip_members_do_no_harm(tmp_path, monkeypatch):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../up.png", "/abs.png", "c:/x.png", "good.png", "locked.png", "corrupt.png", "folder/"):
            archive.writestr(name, PNGS[0] if not name.endswith("/") else b"")
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("bzip2.png", PNGS[0], zipfile.ZIP_BZIP2)
        archive.writestr("large.png", bytes(5000), zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    # The directory's entry: signature, versions, then the flags at 8; the name at 46.
    data[data.rindex(b"locked.png") - 46 + 8] |= 1
    position = data.index(b"corrupt.png") + len(b"corrupt.png") + 40
    data[position] ^= 0xFF
    path.write_bytes(data)
    monkeypatch.setattr(limits, "MAX_RECORD_BYTES", 4000)
    prefix = tmp_path / "out" / "p"
    assert ingest(path, prefix, 1) == 3
    assert ids(prefix) == ["abs.png", "good.png"]
    reasons = rejected(prefix)
    assert "leads out" in reasons["../up.png"]
    assert "drive letter" in reasons["c:/x.png"]
    assert "encrypted" in reasons["locked.png"]
    assert "Bad CRC-32" in reasons["corrupt.png"]
    assert "links are not followed" in reasons["link.png"]
    assert "deflate" in reasons["bzip2.png"]
    assert reasons["large.png"] == "too large: 5000 bytes; the limit is 4000"
    assert len(reasons) == 7


def test_a_zip_member_that_lies_about_its_size_is_not_read_beyond_it(tmp_path, monkeypatch):
    """A bomb: a megabyte behind a declared kilobyte."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", PNGS[0] + bytes(1 << 20))
        archive.writestr("good.png", PNGS[1])
    data = path.read_bytes().replace(struct.pack("<I", len(PNGS[0]) + (1 << 20)), struct.pack("<I", 1000))
    path.write_bytes(data)
    read = []
    original = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n: read.append(n) or original(self, n))
    assert ingest(path, tmp_path / "out" / "p", 1) == 3
    assert "damaged" in rejected(tmp_path / "out" / "p")["bomb.png"]
    assert ids(tmp_path / "out" / "p") == ["good.png"]
    assert max(read) == 1000


def header(name, size):
    """A tar header that declares what it likes."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(data):
    return data + bytes(-len(data) % 512)


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["tar", "tar.gz"])
@pytest.mark.parametrize(
    ("tail", "said"),
    [
        (header("huge.png", 1 << 40), "huge.png"),
        (header("negative.png", -512), "negative size"),
        (tarfile.TarInfo("x" * 200).tobuf(tarfile.GNU_FORMAT)[:124] + b"77777777777\0" + bytes(376), "damaged header"),
        (b"\x01" * 512, "damaged header"),
        (header("cut.png", 1000) + b"few bytes", "cut"),
        (header("cut.png", 0)[:100], "cut off"),
        (b"", "cut off"),
    ],
    ids=["huge", "negative", "bad checksum", "garbage", "cut in a member", "cut in a header", "no end"],
)
def test_a_tar_that_breaks_midway_gives_what_is_before(tail, said, compress, tmp_path):
    path = tmp_path / "broken.tar"
    path.write_bytes(compress(header("good.png", len(PNGS[0])) + padded(PNGS[0]) + tail))
    members, rejects = image_files.list_members(image_files.match_files(str(path)))
    (damage,) = [reject for reject in rejects if reject.damage]
    assert (damage.id, damage.source) == ("broken.tar", str(path))
    assert "damaged: " in damage.reason
    good, *others = sorted(image_files.read_members(members), key=lambda content: content.problem is not None)
    assert (good.member.id, good.data) == ("good.png", PNGS[0])
    assert said in str([*rejects, *others])
    assert not any(content.data for content in others)


def test_a_tar_header_extension_of_a_gigabyte_is_not_read_into_memory(tmp_path, capsys):
    longname = tarfile.TarInfo("././@LongLink")
    longname.type, longname.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    path = tmp_path / "longname.tar"
    path.write_bytes(longname.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert ingest(path, tmp_path / "out" / "p", 1) == 2
    assert "a header of 1073741824 bytes" in usage_error(capsys)


def test_a_truncated_archive_is_taken_as_far_as_it_goes(tmp_path, capsys):
    files = {f"{i:02d}.png": samples.encoded(image) for i, image in enumerate(samples.random_images(40, (32, 32, 3)))}
    path = tar_file(tmp_path / "cut.tgz", files, "w:gz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    prefix = tmp_path / "out" / "p"
    assert ingest(path, prefix, 3) == 3
    there = written(prefix)
    assert 10 < len(there) < 30
    assert all(files[name] == image for name, _, image in there)
    assert "cut.tgz" in rejected(prefix)
    assert "images may be missing" in capsys.readouterr().out


def test_a_flipped_bit_in_a_gzip_is_noticed_although_every_member_is_there(tmp_path):
    path = tar_file(tmp_path / "a.tar")
    flipped = bytearray(gzip.compress(path.read_bytes(), 0))
    flipped[flipped.index(PNGS[0]) + 60] ^= 1
    path.write_bytes(flipped)
    members, (reject,) = image_files.list_members(image_files.match_files(str(path)))
    assert len(members) == len(FILES)
    assert reject.damage
    assert "CRC check failed" in reject.reason


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>" * 100, b"\x1f\x8b" + b"?" * 2000])
def test_what_is_no_archive_is_a_usage_error(name, content, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    assert ingest(tmp_path / name, tmp_path / "out" / "p") == 2
    assert f"{tmp_path / name}: no readable" in usage_error(capsys)
    assert not (tmp_path / "out").exists()


def test_one_bad_archive_among_good_ones_is_damage(tmp_path, capsys):
    zip_file(tmp_path / "in" / "good.zip")
    (tmp_path / "in" / "bad.zip").write_bytes(b"PK")
    (tmp_path / "in" / "other.7z").write_bytes(b"7z")
    assert ingest(tmp_path / "in", tmp_path / "out" / "p") == 3
    assert written(tmp_path / "out" / "p") == EXPECTED
    printed = capsys.readouterr().out
    assert "bad.zip: no readable zip archive" in printed
    assert "other.7z: an archive of a kind that is not read" in printed


def test_an_empty_archive_is_a_usage_error(tmp_path, capsys):
    assert ingest(tar_file(tmp_path / "empty.tar", {}), tmp_path / "out" / "p") == 2
    assert "without any file" in usage_error(capsys)


def test_an_archive_replaced_after_listing_is_not_read(tmp_path):
    path = tar_file(tmp_path / "a.tar")
    members, _ = image_files.list_members(image_files.match_files(str(path)))
    tar_file(path, {**FILES, "more.png": PNGS[9]})
    os.utime(path, (1, 1))
    with pytest.raises(errors.StorageError, match="has changed"):
        list(image_files.read_members(members))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_an_id_is_a_harmless_relative_path(name):
    try:
        made = member_id(name)
    except ValueError:
        return
    parts = made.split("/")
    assert not {"", ".", ".."} & set(parts)
    assert "\\" not in made
    assert member_id(made) == made or made[1:2] == ":"


# Usage errors.


def test_a_pattern_that_matches_nothing_is_named(tmp_path, capsys):
    photos = folder(tmp_path / "photos")
    (tmp_path / "empty").mkdir()
    for nothing in (f"{tmp_path}/no/*.png", tmp_path / "no.zip", tmp_path / "empty"):
        assert ingest([photos, nothing], tmp_path / "out" / "p") == 2
        assert f"--images {nothing} matches no file" in usage_error(capsys)
    assert not (tmp_path / "out").exists()


def test_shards_of_another_number_under_the_same_prefix_are_a_usage_error(tmp_path, capsys):
    photos, prefix = folder(tmp_path / "photos"), tmp_path / "out" / "p"
    assert ingest(photos, prefix, 2) == 0
    capsys.readouterr()
    assert ingest(photos, prefix, 3) == 2
    assert f"remove {prefix}-*-of-00002.tfrecord, or choose another --output" in usage_error(capsys)
    assert len(shard_paths(prefix)) == 2
    assert ingest(photos, f"{prefix}2", 3) == 0


def test_a_prefix_that_is_a_folder_or_a_glob_is_a_usage_error(tmp_path, capsys):
    photos = folder(tmp_path / "photos")
    assert ingest(photos, tmp_path) == 2
    assert f"as {tmp_path}/images" in usage_error(capsys)
    assert ingest(photos, tmp_path / "x*") == 2
    assert "must not hold" in usage_error(capsys)


def test_tfrecords_and_images_do_not_mix(tmp_path, capsys):
    photos = folder(tmp_path / "photos")
    shard = samples.write_shard(tmp_path / "a.tfrecord", [b"x"])
    assert ingest([photos, shard], tmp_path / "out" / "p") == 2
    assert "give either images or TFRecords" in usage_error(capsys)
    (tmp_path / "classes.txt").write_text("cat\n")
    assert ingest(shard, tmp_path / "out" / "p", 1, f"--class_names={tmp_path / 'classes.txt'}") == 2
    assert "--class_names goes with images" in usage_error(capsys)


# Resharding.


def payloads(prefix):
    return list(tf.data.TFRecordDataset(shard_paths(prefix)).as_numpy_iterator())


def test_reshard_copies_payloads_untouched_and_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reshard, "MARK_BYTES", 100)
    rng = np.random.default_rng(0)
    made = [rng.bytes(int(size)) for size in rng.integers(0, 90, 100)]
    samples.write_shard(tmp_path / "in" / "a.tfrecord", made[:40])
    samples.write_shard(tmp_path / "in" / "b.tfrecord.gz", made[40:45])
    samples.write_shard(tmp_path / "in" / "c.tfrecord-00000-of-00002", made[45:90])
    samples.write_shard(tmp_path / "in" / "c.tfrecord-00001-of-00002", made[90:])
    samples.write_shard(tmp_path / "in" / "d.tfrecords", [])
    (tmp_path / "in" / ".DS_Store").write_bytes(b"")
    for shards in (1, 7, 130):
        prefix = tmp_path / f"out{shards}" / "p"
        assert ingest(tmp_path / "in", prefix, shards) == 0
        assert payloads(prefix) == made
        assert len(shard_paths(prefix)) == shards
    assert "100 records" in capsys.readouterr().out
    assert names(tmp_path / "out7")[-1] == "p-summary.json"
    sizes = [sum(1 for _ in framing.read_file(path)) for path in shard_paths(tmp_path / "out7" / "p")]
    assert max(sizes) - min(sizes) <= 1


def test_reshard_leaves_out_bad_records_and_names_them(tmp_path, capsys):
    made = [bytes([i]) * 50 for i in range(30)]
    good = samples.write_shard(tmp_path / "in" / "a.tfrecord", made[:10])
    flipped = bytearray(good.read_bytes())
    flipped[3 * 66 + 20] ^= 1
    good.write_bytes(flipped)
    samples.write_shard(tmp_path / "in" / "b.tfrecord", made[10:20])
    assert ingest(tmp_path / "in", tmp_path / "out" / "p", 3) == 0
    assert payloads(tmp_path / "out" / "p") == made[:3] + made[4:20]
    assert rejected(tmp_path / "out" / "p") == {"a.tfrecord__3": "bad payload checksum: 50 bytes"}
    assert "rejected: 1" in capsys.readouterr().out
    cut = samples.write_shard(tmp_path / "in" / "c.tfrecord.gz", made[20:])
    cut.write_bytes(gzip.compress(gzip.decompress(cut.read_bytes())[: 4 * 66 + 30]))
    assert ingest(tmp_path / "in", tmp_path / "out2" / "p", 3) == 3
    assert payloads(tmp_path / "out2" / "p") == made[:3] + made[4:24]
    assert list(rejected(tmp_path / "out2" / "p")) == ["a.tfrecord__3", "c.tfrecord.gz__4"]


def test_reshard_onto_its_own_input_is_a_usage_error(tmp_path, capsys):
    samples.write_shard(tmp_path / "p-00000-of-00001.tfrecord", [b"x"])
    assert ingest(tmp_path / "p-*.tfrecord", tmp_path / "p", 1) == 2
    assert "choose another --output" in usage_error(capsys)
    assert len(list(framing.read_file(str(tmp_path / "p-00000-of-00001.tfrecord")))) == 1


def test_a_shard_that_changes_between_counting_and_copying_stops_the_run(tmp_path):
    path = samples.write_shard(tmp_path / "a.tfrecord", [b"1", b"2", b"3"])
    scan = reshard.scan_file(0, str(path))
    samples.write_shard(path, [b"1"])
    with pytest.raises(errors.StorageError, match="has changed"):
        reshard.copy_range(0, [scan], OutputNames(str(tmp_path / "out" / "p"), 1))
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


# Failure, and the real thing.


@pytest.mark.parametrize(("make", "name"), [(zip_file, "a.zip"), (tar_file, "a.tar")])
def test_an_archive_is_read_through_passing_storage_trouble(make, name, tmp_path, monkeypatch):
    path = make(tmp_path / name)
    opened = []

    class Unsteady:
        """Breaks at every second read."""

        def __init__(self, stream):
            self._stream, self._reads = stream, 0
            self.seek, self.close = stream.seek, stream.close
            opened.append(self)

        def read(self, size):
            self._reads += 1
            if self._reads == 2:
                raise ConnectionError("reset by peer")
            return self._stream.read(min(size, 700))

    open_steady = file_system.open_to_read
    monkeypatch.setattr(reading, "RETRY_DELAYS", (0.0,))
    monkeypatch.setattr(file_system, "open_to_read", lambda path: Unsteady(open_steady(path)))
    members, rejects = image_files.list_members(image_files.match_files(str(path)))
    assert not rejects
    assert {content.member.id: content.data for content in image_files.read_members(members)} == FILES
    assert len(opened) > 4


def test_a_run_that_fails_leaves_no_mark_of_completion_and_a_rerun_is_whole(tmp_path, monkeypatch, capsys):
    photos, prefix = folder(tmp_path / "photos"), tmp_path / "out" / "p"
    assert ingest(photos, prefix, 3) == 0
    publish = writing.publish

    def full(temporary, final):
        if final.endswith("00001-of-00003.tfrecord"):
            raise errors.StorageError(f"cannot write {final}: No space left on device")
        publish(temporary, final)

    monkeypatch.setattr(writing, "publish", full)
    capsys.readouterr()
    assert ingest(photos, prefix, 3) == 1
    assert "No space left on device" in usage_error(capsys)
    assert not Path(f"{prefix}-summary.json").exists()
    assert not Path(f"{prefix}-00001-of-00003.tfrecord").exists()
    monkeypatch.undo()
    assert ingest(photos, prefix, 3) == 0
    assert written(prefix) == EXPECTED
    assert "p-unfinished" not in names(tmp_path / "out")


def test_the_real_tiny_imagenet(tmp_path, capsys):
    archive, prefix = samples.real("tiny_imagenet_crop.tar"), tmp_path / "out" / "tiny"
    assert ingest(archive, prefix, 8) == 0
    assert "10,000 images (unlabelled" in capsys.readouterr().out
    assert json.loads(Path(f"{prefix}-summary.json").read_text())["written"] == 10_000
    paths = shard_paths(prefix)
    assert len(paths) == 8
    found = [record for path in paths for record in framing.read_file(path)]
    assert len(found) == 10_000
    assert not any(record.problem for record in found)
    rows = written(prefix)
    assert [row[0] for row in rows] == sorted(f"tiny_imagenet_crop/{i}.png" for i in range(10_000))
    with tarfile.open(archive) as members:
        for name, label, image in rows[::997]:
            assert label is None
            assert members.extractfile(name).read() == image
