"""What a PATTERN means."""

import os
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.sources import source_options, source_patterns
from odin_beam.pipeline.launch import listings, sources
from odin_beam.pipeline.launch.source_kinds import tfrecords
from odin_beam.pipeline.launch.source_pattern import SourceOptions, SourcePattern
from odin_beam.transforms.shards.contents import image_list
from odin_beam.transforms.shards.contents.noise import Noise
from odin_beam.transforms.shards.contents.tfrecords import TFRecords
from odin_beam.transforms.shards.shard import IMAGES_PER_SHARD
from odin_beam.transforms.storage import file_system
from tests.helpers import samples


def listed(folder, *patterns, noise_count=10_000):
    return sources.list_shards(SourceOptions(patterns, noise_count, "/nowhere"), str(folder))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cifar10=/d/c-*", SourcePattern("cifar10", "input", "/d/c-*")),
        ("a.b-c_1=gs://b/x", SourcePattern("a.b-c_1", "input", "gs://b/x")),
        ("gs://b/date=2024-01-01/*", SourcePattern("input", "input", "gs://b/date=2024-01-01/*")),
        ("/d/k=v/*", SourcePattern("input", "input", "/d/k=v/*")),
        ("n=gs://b/date=2024-01-01/*", SourcePattern("n", "input", "gs://b/date=2024-01-01/*")),
        ("/plain", SourcePattern("input", "input", "/plain")),
        ("files:/d/**.jpg", SourcePattern("input", "input", "/d/**.jpg", "files")),
        ("cats=files:gs://b/k=v/*", SourcePattern("cats", "input", "gs://b/k=v/*", "files")),
        ("manifest:/d/m.csv", SourcePattern("input", "input", "/d/m.csv", "manifest")),
        ("noise:gaussian", SourcePattern("gaussian", "input", "gaussian", "noise")),
        ("n=noise:uniform", SourcePattern("n", "input", "uniform", "noise")),
        ("tfds:mnist:3.0.1/test", SourcePattern("mnist", "input", "mnist:3.0.1/test", "tfds")),
    ],
)
def test_a_pattern_is_its_name_if_it_has_one_its_kind_and_the_rest(text, expected):
    assert source_patterns(text, "input") == [expected]


def test_a_name_holds_until_the_next_one():
    patterns = source_patterns("known=/a,/b,files:/c,other=/d", "input")
    assert [(pattern.name, pattern.text) for pattern in patterns] == [
        ("known", "/a"),
        ("known", "/b"),
        ("known", "files:/c"),
        ("other", "/d"),
    ]


@pytest.mark.parametrize(
    ("text", "message"), [("x=", "has no pattern"), ("nosie:gaussian", "did you mean noise:gaussian?")]
)
def test_a_pattern_that_means_nothing_is_a_usage_error(text, message):
    with pytest.raises(UsageError, match=message):
        source_patterns(text, "input")


@pytest.mark.parametrize("kind", ["", "files:", "manifest:"])
def test_relative_patterns_become_absolute(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    assert source_patterns(f"x={kind}a/*.x", "input")[0].text == f"{kind}{tmp_path}/a/*.x"


def test_listings_are_sorted_and_free_of_duplicates_within_a_source(tmp_path):
    for name in ("b", "a", "c"):
        samples.write_shard(tmp_path / f"{name}.tfrecord", [])
    patterns = [
        SourcePattern("two", "input", f"{tmp_path}/[bc].tfrecord"),
        SourcePattern("one", "input", f"{tmp_path}/c.tfrecord"),
        SourcePattern("two", "input", f"{tmp_path}/*.tfrecord"),
    ]
    there = [(shard.source, shard.path[-10:]) for shard in listed(tmp_path, *patterns)]
    assert there == [("two", "a.tfrecord"), ("two", "b.tfrecord"), ("two", "c.tfrecord"), ("one", "c.tfrecord")]


@pytest.mark.parametrize("kind", ["", "files"])
def test_a_pattern_without_match_is_a_usage_error(tmp_path, kind):
    with pytest.raises(UsageError, match=r"--in_distribution .*none-\* matches no file"):
        listed(tmp_path, SourcePattern("x", "in_distribution", f"{tmp_path}/none-*", kind))


def test_a_folder_stands_for_the_files_named_as_shards(tmp_path, capsys):
    for name in ("a.tfrecord", "b/c.tfrecord-00000-of-00001", "d.TFRecord.gz"):
        samples.write_shard(tmp_path / "in" / name, [])
    for name in ("_SUCCESS", ".a.tfrecord.crc", ".DS_Store", "labels.txt", "notes.txt"):
        (tmp_path / "in" / name).write_bytes(b"x")
    shards = listed(tmp_path, SourcePattern("x", "input", f"{tmp_path}/in"))
    assert [os.path.basename(shard.path)[0] for shard in shards] == ["a", "c", "d"]
    assert capsys.readouterr().err == "source x: 1 other file is beside what was asked for (1 .txt)\n"


def test_a_folder_without_shards_is_answered_with_patterns(tmp_path):
    (tmp_path / "part-r-00000").write_bytes(b"")
    with pytest.raises(UsageError, match="is a folder without files named") as caught:
        listed(tmp_path, SourcePattern("x", "input", str(tmp_path)))
    assert f"'{tmp_path}/*'" in str(caught.value)


def test_checksums_and_markers_beside_shards_are_skipped(tmp_path, capsys):
    samples.write_shard(tmp_path / "part-r-00000", [])
    for name in ("_SUCCESS", "._SUCCESS.crc", ".part-r-00000.crc", "part-summary.json", "labels.txt", "p-labels.txt"):
        (tmp_path / name).write_bytes(b"x")
    (shard,) = listed(tmp_path, SourcePattern("x", "input", f"{tmp_path}/*"))
    assert shard.path == f"{tmp_path}/part-r-00000"
    assert capsys.readouterr().err == ""


@pytest.fixture
def photos(tmp_path):
    """Images of several extensions, among what systems leave."""
    images = ["a.png", "b.PNG", "c.jpeg", "d/e.Jpg", "d/f.bmp"]
    litter = [
        ".thumbs/a.png",
        "._a.png",
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        "__MACOSX/a.png",
        "_SUCCESS",
        "a.crc",
    ]
    for name in [*images, *litter, "notes.txt"]:
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(b"x")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("pattern", "expected", "left"),
    [
        ("", ["a.png", "b.PNG", "c.jpeg", "d/e.Jpg", "d/f.bmp"], "1 other file is beside what was asked for (1 .txt)"),
        ("/", ["a.png", "b.PNG", "c.jpeg", "d/e.Jpg", "d/f.bmp"], "1 other file is beside what was asked for (1 .txt)"),
        ("/**/*.png", ["a.png"], "4 other files are beside what was asked for (1 .Jpg, 1 .PNG, 1 .bmp, 1 .jpeg)"),
        ("/*.png", ["a.png"], "2 other files are beside what was asked for (1 .PNG, 1 .jpeg)"),
        ("/d/?.bmp", ["d/f.bmp"], "1 other file is beside what was asked for (1 .Jpg)"),
        ("/**", ["a.png", "b.PNG", "c.jpeg", "d/e.Jpg", "d/f.bmp", "notes.txt"], None),
    ],
)
def test_what_lies_beside_images_is_said_once(photos, capsys, pattern, expected, left):
    (shard,) = listed(photos.parent, SourcePattern("x", "input", f"{photos}{pattern}", "files"))
    rows = image_list.read_rows(shard.content, str(photos.parent))
    assert [row["uri"].removeprefix(f"{photos}/") for row in rows] == expected
    assert capsys.readouterr().err == (f"source x: {left}\n" if left else "")


def listed_ids(shard, folder):
    return [row["id"] for row in image_list.read_rows(shard.content, str(folder))]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", "a.png"),
        ("./*.png", "./a.png"),
        ("a.png", "a.png"),
        ("../photos/*.png", "../photos/a.png"),
        ("..//photos/*.png", "..//photos/a.png"),
        ("d/../*.png", "d/../a.png"),
        ("{photos}/*.png", None),
        ("{photos}//*.png", "{photos}//a.png"),
        ("{photos}/d/../*.png", "{photos}/d/../a.png"),
    ],
)
def test_an_id_is_the_path_as_the_user_wrote_it(photos, monkeypatch, pattern, expected):
    monkeypatch.chdir(photos)
    (shard,) = listed(photos.parent, *source_patterns(f"x=files:{pattern.format(photos=photos)}", "input"))
    assert listed_ids(shard, photos.parent) == [expected and expected.format(photos=photos)]
    assert [row["uri"] for row in image_list.read_rows(shard.content, str(photos.parent))] == [f"{photos}/a.png"]


@pytest.mark.parametrize("folder", [".", "./", "..", "d/../../photos"])
def test_ids_of_a_folder_begin_as_the_folder_was_written(photos, monkeypatch, folder):
    monkeypatch.chdir(photos)
    (shard,) = listed(photos.parent, *source_patterns(f"x=files:{folder}", "input"))
    inside = "photos/d/f.bmp" if folder == ".." else "d/f.bmp"
    assert f"{folder.rstrip('/')}/{inside}" in listed_ids(shard, photos.parent)


def test_a_table_gives_its_ids_and_its_uris_as_they_stand_there(photos):
    (photos / "m.csv").write_text(f"uri,id\na.png,7\nd/e.Jpg,\n{photos}/c.jpeg,\nfile://{photos}/b.PNG,\n")
    (shard,) = listed(photos.parent, SourcePattern("x", "input", f"{photos}/m.csv", "manifest"))
    assert listed_ids(shard, photos.parent) == ["7", "d/e.Jpg", None, f"file://{photos}/b.PNG"]


@pytest.mark.parametrize(("resumes", "expected"), [(True, None), (False, "a.png")])
def test_a_run_that_began_with_absolute_ids_goes_on_with_them(photos, tmp_path, monkeypatch, resumes, expected):
    """The list that it left is one of an earlier version, which did not mark it."""
    monkeypatch.chdir(photos)
    options, output = SourceOptions(tuple(source_patterns("x=files:*.png", "input"))), tmp_path / "out"
    monkeypatch.setattr(image_list, "_IDS_AS_WRITTEN", b"?")
    (marked,) = sources.list_shards(options, str(output), str(output))
    assert listed_ids(marked, output) == ["a.png"]
    monkeypatch.undo()
    monkeypatch.chdir(photos)
    for _ in range(2):
        (shard,) = sources.list_shards(options, str(tmp_path / "launch"), str(output), resumes)
        assert listed_ids(shard, tmp_path / "launch") == [expected]
        listings.publish_listings(str(tmp_path / "launch"), str(output))


def test_what_another_pattern_of_the_source_matches_is_not_left_out(photos, capsys):
    patterns = [SourcePattern("x", "input", f"{photos}/*.{kind}", "files") for kind in ("png", "PNG", "jpeg")]
    listed(photos.parent, *patterns)
    assert capsys.readouterr().err == ""


def test_a_source_of_shards_and_loose_files_lists_both(tmp_path):
    samples.write_shard(tmp_path / "a.tfrecord", [])
    patterns = [SourcePattern("x", "input", f"{tmp_path}/a*", kind) for kind in ("", "files")]
    assert [type(shard.content).__name__ for shard in listed(tmp_path, *patterns)] == ["TFRecords", "ImageList"]


def test_a_pattern_of_another_case_says_what_is_there(photos):
    with pytest.raises(UsageError, match=r"matches no file; 2 other files .*1 \.PNG, 1 \.png"):
        listed(photos.parent, SourcePattern("x", "input", f"{photos}/[ab]*.Png", "files"))


@pytest.mark.parametrize(
    ("kind", "pattern"), [("files", "{d}/.thumbs**"), ("files", "{d}/_SUCCESS"), ("", "{d}/_SUC*")]
)
def test_a_pattern_of_litter_alone_says_so(photos, kind, pattern):
    with pytest.raises(UsageError, match="matches only hidden files and litter"):
        listed(photos.parent, SourcePattern("x", "input", pattern.format(d=photos), kind))


@pytest.mark.parametrize("kind", ["", "files"])
def test_glob_characters_in_real_names(tmp_path, kind):
    path = samples.write_shard(tmp_path / "set[1]" / "what?*.png", [])
    (shard,) = listed(tmp_path, SourcePattern("x", "input", str(path), kind))
    with pytest.raises(UsageError, match=r"did you mean .*/set\[\[\]1\]/w\*\?") as caught:
        listed(tmp_path, SourcePattern("x", "input", f"{tmp_path}/set[1]/w*", kind))
    escaped = str(caught.value).partition("did you mean ")[2].removesuffix("?").removeprefix("files:")
    (again,) = listed(tmp_path, SourcePattern("x", "input", escaped, kind))
    assert kind or again.path == shard.path == str(path)


def test_linked_folders_are_followed_and_a_broken_link_is_listed(tmp_path):
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    photos.mkdir()
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes(b"x")
    for name, target in {
        "cat": elsewhere,
        "dog": elsewhere,
        "up": tmp_path,
        "self": photos,
        "kernel": "/proc",
        "gone.png": tmp_path / "nothing",
    }.items():
        (photos / name).symlink_to(target)
    (elsewhere / "back").symlink_to(photos)
    (shard,) = listed(tmp_path, SourcePattern("x", "input", f"{photos}/**.png", "files"))
    rows = image_list.read_rows(shard.content, str(tmp_path))
    assert [(row["uri"].removeprefix(f"{photos}/"), row["size"]) for row in rows] == [
        ("cat/a.png", 1),
        ("dog/a.png", 1),
        ("gone.png", 0),
    ]
    with ThreadPoolExecutor(1) as fetchers:
        problems = [
            record.problem and record.problem[0] for record in shard.content.read(shard, str(tmp_path), fetchers)
        ]
    assert problems == [None, None, "not_found"]


def test_a_file_name_that_is_no_utf_8_is_a_usage_error(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff.tfrecord", "wb"):
        pass
    with pytest.raises(UsageError, match="rename it"):
        listed(tmp_path, SourcePattern("x", "input", f"{tmp_path}/*.tfrecord"))


def test_loose_files_become_virtual_shards_of_a_list(tmp_path, monkeypatch):
    monkeypatch.setattr(image_list, "IMAGES_PER_SHARD", 4)
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(b"x" * i)
    shards = listed(tmp_path, SourcePattern("photos", "input", f"{tmp_path}/*.png", "files"))
    assert [(shard.content.first, shard.content.count) for shard in shards] == [(0, 4), (4, 4), (8, 2)]
    assert {shard.path for shard in shards} == {f"files:{tmp_path}/*.png"}
    assert len({shard.file_name for shard in shards}) == 3
    table = pq.read_table(tmp_path / shards[0].content.listing)
    assert table["uri"].to_pylist() == [f"{tmp_path}/{i}.png" for i in range(10)]
    assert table["size"].to_pylist() == list(range(10))


def test_an_image_in_two_patterns_of_a_source_is_listed_once(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(b"x")
    patterns = [
        SourcePattern("photos", "input", f"{tmp_path}/[01].png", "files"),
        SourcePattern("others", "input", f"{tmp_path}/*.png", "files"),
        SourcePattern("photos", "input", f"{tmp_path}/*.png", "files"),
    ]
    shards = listed(tmp_path, *patterns)
    counts = {}
    for shard in shards:
        counts[shard.source] = counts.get(shard.source, 0) + shard.content.count
    assert counts == {"photos": 4, "others": 4}


def test_two_shards_that_would_share_a_scores_file_are_refused(tmp_path, monkeypatch):
    for name in ("a", "b"):
        samples.write_shard(tmp_path / f"{name}.tfrecord", [])
    monkeypatch.setattr(tfrecords, "scores_file_name", lambda path, first=None: "same.parquet")
    with pytest.raises(UsageError, match="would share a scores file"):
        listed(tmp_path, SourcePattern("x", "input", f"{tmp_path}/*.tfrecord"))


def test_the_same_pattern_twice_is_the_pattern_once(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"x")
    arguments = SimpleNamespace(
        input=[f"files:{tmp_path}/*.png,files:{tmp_path}/*.png"], noise_count=1, tfds_data_dir=""
    )
    options = source_options(arguments, ["input"], ())
    (shard,) = sources.list_shards(options, str(tmp_path / "launch"))
    assert len(image_list.read_rows(shard.content, str(tmp_path / "launch"))) == 3


def test_overlapping_patterns_of_a_source_are_each_listed_once(tmp_path, monkeypatch):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"x")
    looked_for, match = [], file_system.match
    monkeypatch.setattr(
        file_system, "match", lambda pattern, links: (looked_for.append(pattern), match(pattern, links))[1]
    )
    globs = [f"{tmp_path}/{name}.png" for name in ("0*", "*", "1*")]
    shards = listed(tmp_path, *(SourcePattern("photos", "input", glob, "files") for glob in globs))
    assert [shard.content.count for shard in shards] == [2, 1]
    assert looked_for == [f"{tmp_path}/{name}.*" for name in ("0*", "*", "1*")]


def test_a_file_name_of_any_script_will_do(tmp_path):
    names = ["Bildschirmfoto 10.15.33\u202fAM.png", "a\u00a0b.png", "\U0001f468\u200d\U0001f469.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    (shard,) = listed(tmp_path, SourcePattern("x", "input", f"{tmp_path}/*.png", "files"))
    assert shard.content.count == 3


def test_only_the_virtual_shards_whose_files_changed_get_another_digest(tmp_path, monkeypatch):
    monkeypatch.setattr(image_list, "IMAGES_PER_SHARD", 4)
    pattern = SourcePattern("photos", "input", f"{tmp_path}/*.png", "files")
    for i in range(10):
        (tmp_path / f"{i}.png").write_bytes(b"x")
    before = listed(tmp_path, pattern)
    assert listed(tmp_path, pattern) == before
    (tmp_path / "5.png").write_bytes(b"another")
    (tmp_path / "99.png").write_bytes(b"new")
    after = listed(tmp_path, pattern)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False]


def test_noise_is_cut_into_shards_of_which_only_the_last_is_smaller(tmp_path):
    shards = listed(tmp_path, SourcePattern("n", "out_distribution", "uniform", "noise"), noise_count=5000)
    contents = [shard.content for shard in shards]
    assert [content.first for content in contents] == [0, IMAGES_PER_SHARD, 2 * IMAGES_PER_SHARD]
    assert sum(content.count for content in contents) == 5000
    assert {type(content) for content in contents} == {Noise}


def test_an_unknown_noise_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="gaussian and uniform"):
        listed(tmp_path, SourcePattern("n", "out_distribution", "pink", "noise"))


def test_published_lists_lie_in_the_runs_folder(tmp_path):
    (tmp_path / "0.png").write_bytes(b"x")
    (shard,) = listed(tmp_path / "launch", SourcePattern("photos", "input", f"{tmp_path}/*.png", "files"))
    listings.publish_listings(str(tmp_path / "launch"), str(tmp_path / "run"))
    assert image_list.read_rows(shard.content, str(tmp_path / "run"))[0]["uri"] == f"{tmp_path}/0.png"


def test_without_lists_there_is_nothing_to_publish(tmp_path):
    samples.write_shard(tmp_path / "a.tfrecord", [])
    shards = listed(tmp_path / "launch", SourcePattern("x", "input", f"{tmp_path}/a.tfrecord"))
    assert shards[0].content == TFRecords()
    listings.publish_listings(str(tmp_path / "launch"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
