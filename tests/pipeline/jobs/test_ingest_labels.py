"""`odin-beam ingest`: labels out of folders, and their names."""

import pytest

from tests.helpers.ingest_runs import FOLDERS, PNGS, folder, ingest, names, usage_error, written


@pytest.mark.parametrize("patterns", [["cat", "dog"], ["cat/*.jpg", "cat/*.png", "dog/*"]])
def test_class_folders_given_one_by_one_keep_their_names(tmp_path, patterns):
    photos = folder(tmp_path / "photos")
    assert ingest([f"{photos}/{pattern}" for pattern in patterns], tmp_path / "out" / "p") == 0
    rows = [("cat/y.png", 0), ("cat/z.jpg", 0), ("dog/a.png", 1), ("dog/b.png", 1)]
    assert sorted(row[:2] for row in written(tmp_path / "out" / "p")) == rows


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


def test_other_labels_beside_the_shards_stay_as_they_are(tmp_path, capsys):
    validation = folder(tmp_path / "validation", {"apple/1.png": PNGS[0], "pear/2.png": PNGS[1]})
    photos = folder(tmp_path / "photos", {"cat/1.png": PNGS[0], "dog/2.png": PNGS[1]})
    out = tmp_path / "out"
    for _ in range(2):
        assert ingest(validation, out / "validation") == 0
        assert f"labels: {out}/labels.txt (apple, pear)" in capsys.readouterr().out
        assert ingest(photos, out / "p") == 0
        assert f"labels: {out}/p-labels.txt (cat, dog)" in capsys.readouterr().out
    assert (out / "labels.txt").read_text() == "apple\npear\n"
    assert (out / "p-labels.txt").read_text() == "cat\ndog\n"
    assert ingest(validation, out / "again") == 0
    assert "again-labels.txt" not in names(out)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["a/1.png", "b/2.png", "3.png"], "there are images beside the folders"),
        (["a/1.png", "b/c/2.png", "b/d/3.png"], "there are images in folders of folders, such as b/"),
        (["2023/01/1.png", "2024/02/2.png"], "there are images in folders of folders, such as 202"),
        (["a/1.png", "a/b/1.png", "a/c/1.png"], "there are images beside the folders"),
    ],
)
def test_folders_that_do_not_look_like_classes_are_none_unless_asked(files, said, tmp_path, capsys):
    photos = folder(tmp_path / "photos", dict(zip(files, PNGS, strict=False)))
    assert ingest(photos, tmp_path / "out" / "p") == 0
    assert f"(unlabelled: {said}" in (printed := capsys.readouterr().out)
    assert "--labels folders takes each image's folder" in printed
    assert ingest(photos, tmp_path / "out" / "p", 2, FOLDERS) == 0
    assert "labelled in" in capsys.readouterr().out


@pytest.mark.parametrize(
    "files",
    [
        ["cat/1.png", "dog/2.PNG", "README", "notes.txt", "annotations/1.xml", "._3.png"],
        ["data/train/cat/1.png", "data/train/dog/2.png"],
        ["cat/0a1b", "dog/2c3d"],
    ],
)
def test_folders_side_by_side_that_hold_all_images_are_classes(files, tmp_path, capsys):
    photos = folder(tmp_path / "photos", dict(zip(files, PNGS, strict=False)))
    ingest(photos, tmp_path / "out" / "p")
    assert "labels.txt (cat, dog)" in capsys.readouterr().out


def test_no_labels_if_none_are_wanted_and_one_class_if_asked(tmp_path, capsys):
    photos = folder(tmp_path / "photos", {"cat/1.png": PNGS[0], "dog/2.png": PNGS[1]})
    assert ingest(photos, tmp_path / "out" / "p", 2, "--labels=none") == 0
    assert {row[1] for row in written(tmp_path / "out" / "p")} == {None}
    assert "labels.txt" not in names(tmp_path / "out")
    assert ingest(photos / "cat/*", tmp_path / "out" / "q", 1, FOLDERS) == 0
    assert "the images lie in no folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--labels=none", "--class_names={d}/classes.txt"], "contradict each other"),
        (["--labels=some"], "'some'"),
    ],
)
def test_labels_flags_that_make_no_sense_are_usage_errors(flags, said, tmp_path, capsys):
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    flags = [flag.format(d=tmp_path) for flag in flags]
    assert ingest(folder(tmp_path / "photos"), tmp_path / "out" / "p", 2, *flags) == 2
    assert said in usage_error(capsys)
