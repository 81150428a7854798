"""`odin-beam ingest`: what the shards hold, in which order, and which files are no images."""

import json
import os
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_beam.transforms import errors
from odin_beam.transforms.ingest import image_files
from odin_beam.transforms.ingest.members import Container, Member, Reject
from odin_beam.transforms.ingest.shard_plan import plan_shards, read_plan, write_plans
from odin_beam.transforms.shards import framing
from odin_beam.transforms.storage import writing
from odin_beam.transforms.storage.matched_files import match_files
from tests.helpers import samples
from tests.helpers.ingest_runs import (
    EXPECTED,
    FILES,
    FOLDERS,
    LABELS,
    PNGS,
    folder,
    ids,
    ingest,
    names,
    rejected,
    shard_paths,
    tar_file,
    uris,
    usage_error,
    written,
    zip_file,
)


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
    assert ingest(make(tmp_path), prefix, 3, FOLDERS) == 0
    assert written(prefix) == EXPECTED
    made = next(path for path in tmp_path.iterdir() if path.name != "out")
    root = f"{made}!" if made.is_file() else str(made)
    assert uris(prefix) == [f"{root}/{image_id}" for image_id, *_ in EXPECTED]
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
    check = f"odin-beam check --model MODEL --in_distribution '{prefix}-*.tfrecord' --output model.json"
    assert printed.splitlines()[-1] == f"next: {check}"


def test_running_twice_gives_the_same_bytes_and_nothing_is_left(tmp_path):
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
        assert ingest(photos, photos / "shards", 2, FOLDERS) == 0
        assert written(photos / "shards") == EXPECTED


def test_order_is_of_arguments_then_paths_and_no_file_is_twice(tmp_path):
    photos = folder(tmp_path / "photos")
    late = zip_file(tmp_path / "a.zip", {"x/2.png": PNGS[6], "x/1.png": PNGS[5]})
    assert ingest([f"{photos}/dog/*.png", late, photos], tmp_path / "out" / "p", 4) == 0
    assert ids(tmp_path / "out" / "p") == [
        *("dog/a.png", "dog/b.png"),
        *("x/1.png", "x/2.png"),
        *("bird/deep/owl/1.png", "cat/y.png", "cat/z.jpg", "top.png"),
    ]


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
        assert ingest(source, prefix, 2, FOLDERS) == 0
        assert written(prefix) == EXPECTED
        assert not Path(f"{prefix}-rejected.csv").exists()


def test_a_file_that_vanishes_or_cannot_be_read_is_damage(tmp_path):
    file = folder(tmp_path / "photos") / "top.png"
    matched = match_files(str(tmp_path / "photos"))
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


def test_a_pattern_that_matches_nothing_is_named(tmp_path, capsys):
    photos = folder(tmp_path / "photos")
    (tmp_path / "empty").mkdir()
    for nothing in (f"{tmp_path}/no/*.png", tmp_path / "no.zip", tmp_path / "empty"):
        assert ingest([photos, nothing], tmp_path / "out" / "p") == 2
        assert f"--images {nothing} matches no file" in usage_error(capsys)
    assert not (tmp_path / "out").exists()


def test_a_prefix_that_is_a_folder_or_a_glob_is_a_usage_error(tmp_path, capsys):
    photos = folder(tmp_path / "photos")
    assert ingest(photos, tmp_path) == 2
    assert f"as {tmp_path}/images" in usage_error(capsys)
    assert ingest(photos, tmp_path / "x*") == 2
    assert "must not hold" in usage_error(capsys)


def test_a_run_that_fails_is_not_marked_done_its_rerun_is_whole(tmp_path, monkeypatch, capsys):
    photos, prefix = folder(tmp_path / "photos"), tmp_path / "out" / "p"
    assert ingest(photos, prefix, 3, FOLDERS) == 0
    publish = writing.publish

    def full(temporary, final):
        if final.endswith("00001-of-00003.tfrecord"):
            raise errors.StorageError(f"cannot write {final}: No space left on device")
        publish(temporary, final)

    monkeypatch.setattr(writing, "publish", full)
    capsys.readouterr()
    assert ingest(photos, prefix, 3, FOLDERS) == 1
    assert "No space left on device" in usage_error(capsys)
    assert not Path(f"{prefix}-summary.json").exists()
    assert not Path(f"{prefix}-00001-of-00003.tfrecord").exists()
    monkeypatch.undo()
    assert ingest(photos, prefix, 3, FOLDERS) == 0
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


def test_linked_class_folders_are_followed_and_a_broken_link_is_rejected(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat").symlink_to(folder(tmp_path / "cats", {"1.png": PNGS[0]}))
    (photos / "dog").symlink_to(folder(tmp_path / "dogs", {"2.png": PNGS[1]}))
    (photos / "cat" / "loop").symlink_to(photos)
    (photos / "dog" / "gone.png").symlink_to(tmp_path / "nothing")
    assert ingest(photos, tmp_path / "out" / "p") == 3
    assert [row[:2] for row in written(tmp_path / "out" / "p")] == [("cat/1.png", 0), ("dog/2.png", 1)]
    assert "No such file" in rejected(tmp_path / "out" / "p")["dog/gone.png"]


def test_what_systems_leave_is_skipped_and_so_named_if_it_is_all(tmp_path, capsys):
    litter = dict.fromkeys(["Thumbs.db", "cat/desktop.ini", "_SUCCESS", ".a.png.crc", "__MACOSX/a.png"], b"x")
    assert ingest(folder(tmp_path / "photos", {"a.png": PNGS[0], **litter}), tmp_path / "out" / "p") == 0
    assert ids(tmp_path / "out" / "p") == ["a.png"]
    capsys.readouterr()
    assert ingest(tmp_path / "photos" / "*.db", tmp_path / "out" / "q") == 2
    assert "matches only hidden files and litter" in usage_error(capsys)


def test_shards_beside_markers_and_checksums_are_resharded(tmp_path):
    samples.write_shard(tmp_path / "in" / "a.tfrecord", samples.examples(samples.random_images(2)))
    for name in ("_SUCCESS", ".a.tfrecord.crc"):
        (tmp_path / "in" / name).write_bytes(b"x")
    assert ingest(tmp_path / "in", tmp_path / "out" / "p") == 0


def test_a_pattern_in_a_folder_with_brackets_is_answered_escaped(tmp_path, capsys):
    photos = folder(tmp_path / "set[1]", {"a.png": PNGS[0]})
    assert ingest(f"{photos}/*.png", tmp_path / "out" / "p") == 2
    message = usage_error(capsys)
    assert message.endswith(f"did you mean {tmp_path}/set[[]1]/*.png?")
    assert ingest(message.rpartition("mean ")[2].removesuffix("?"), tmp_path / "out" / "p") == 0
