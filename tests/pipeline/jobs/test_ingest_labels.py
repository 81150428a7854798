"""`odin-beam ingest`: labels out of folders, and their names."""

import pytest

from tests.helpers.ingest_runs import PNGS, folder, ingest, names, usage_error, written


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


def test_other_labels_beside_the_shards_are_a_usage_error(tmp_path, capsys):
    photos = folder(tmp_path / "photos")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "labels.txt").write_text("apple\npear\n")
    assert ingest(photos, tmp_path / "out" / "p") == 2
    assert "labels.txt holds other class names" in usage_error(capsys)
    assert names(tmp_path / "out") == ["labels.txt"]
    (tmp_path / "out" / "labels.txt").write_text("cat\ndog\nowl\n")
    assert ingest(photos, tmp_path / "out" / "p") == 0
