"""Which names the classes get."""

import argparse
from dataclasses import replace

import pytest

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.model_json import ModelConfig, write_model_config
from odin_beam.pipeline.launch.class_names import ClassNames, FoundNames, find_class_names, names_beside
from odin_beam.transforms.images.geometry import Geometry
from odin_beam.transforms.model.preprocessing import Preprocessing
from odin_beam.transforms.shards.contents.image_list import ImageList
from odin_beam.transforms.shards.contents.noise import Noise
from odin_beam.transforms.shards.contents.tfrecords import TFRecords
from odin_beam.transforms.shards.shard import FeatureNames, Shard

FLAG = FoundNames(("a", "b"), "--class_names f.txt")
MODEL = FoundNames(("c", "d"), "--model_config model.json")
LABELS = FoundNames(("e", "f"), "/d/labels.txt", of_labels=True)


def shard(path, content=TFRecords(), role="in_distribution"):
    return Shard("s", role, str(path), 1, 0.0, "s.parquet", content)


def test_the_flag_comes_before_the_model_and_the_model_before_labels():
    assert ClassNames(FLAG, (MODEL, LABELS)).of_model(2) == FLAG.names
    assert ClassNames(None, (MODEL, LABELS)).of_model(2) == MODEL.names
    assert ClassNames(None, (LABELS,)).of_model(2) == LABELS.names
    assert ClassNames().of_model(2) is None


def test_names_asked_for_that_do_not_fit_are_one_clear_line():
    with pytest.raises(UsageError, match=r"--class_names f\.txt has 2 names, the model has 3 classes: give one name a"):
        ClassNames(FLAG, (MODEL,)).of_model(3)


def test_names_that_do_not_fit_are_passed_over_and_said(capsys):
    three = replace(LABELS, names=("e", "f", "g"))
    assert ClassNames(None, (MODEL, three)).of_model(3) == three.names
    said = capsys.readouterr().err
    assert said == "--model_config model.json has 2 names, the model has 3 classes: these names are not used\n"


def test_names_of_labels_that_the_model_does_not_predict_are_not_those_of_its_outputs(capsys):
    assert ClassNames(None, (LABELS,)).of_model(2, labels_fit=False) is None
    assert "/d/labels.txt: the model does not predict these labels" in capsys.readouterr().err
    assert ClassNames(None, (MODEL,)).of_model(2, labels_fit=False) == MODEL.names


def test_labels_of_the_shards_come_before_those_of_the_folder_and_those_of_tfds(tmp_path):
    for name in ("p-labels.txt", "labels.txt", "label.labels.txt", "breed.labels.txt"):
        (tmp_path / name).write_text(f"{name}\nother\n")
    path = tmp_path / "p-00000-of-00002.tfrecord"
    found = list(names_beside([shard("/x", role="input"), shard(path)], "label"))
    assert [place.names[0] for place in found] == ["p-labels.txt", "labels.txt", "label.labels.txt"]
    assert all(place.of_labels for place in found)
    own = list(names_beside([shard(path, TFRecords(FeatureNames(label="breed")))], "label"))
    assert own[-1].origin == f"{tmp_path}/breed.labels.txt"


@pytest.mark.parametrize("role", ["input", "out_distribution"])
def test_only_in_distribution_images_name_classes(tmp_path, role):
    (tmp_path / "labels.txt").write_text("a\nb\n")
    assert not list(names_beside([shard(tmp_path / "x.tfrecord", role=role)], "label"))


def test_labels_beside_a_table_name_its_classes_and_noise_has_none(tmp_path, monkeypatch):
    (tmp_path / "labels.txt").write_text("a\nb\n")
    monkeypatch.chdir(tmp_path)
    listed = shard(f"manifest:{tmp_path}/m.csv", ImageList("l", 0, 1, "d"))
    assert [place.names for place in names_beside([listed], "label")] == [("a", "b")]
    assert not list(names_beside([shard("noise:uniform", Noise("uniform", 0, 1))], "label"))


def test_the_command_line_names_places_in_order(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"crane\ncrane\n")
    (tmp_path / "labels.txt").write_bytes(b"\xff\nb\n")
    given = argparse.Namespace(
        class_names=str(tmp_path / "names.txt"), model_config=None, calibration=None, label_feature="label"
    )
    names = find_class_names(given, [shard(tmp_path / "x.tfrecord")])
    # Two classes of ImageNet are called crane.
    assert names.given.names == ("crane", "crane")
    # A table cannot hold what is not text.
    assert [place.names for place in names.found] == [("?", "b")]
    given.class_names = str(tmp_path / "absent.txt")
    with pytest.raises(UsageError, match=r"absent\.txt"):
        find_class_names(given, [])


@pytest.mark.parametrize("names", [None, [], "ab", ["a", 1], {"a": 1}])
def test_what_is_no_list_of_names_in_a_model_json_is_none(tmp_path, names):
    path = str(tmp_path / "model.json")
    given = argparse.Namespace(class_names=None, model_config=path, label_feature="label")
    for found, expected in (({"class_names": names}, []), ({"class_names": ["a", "b"]}, [("a", "b")])):
        write_model_config(path, ModelConfig("d", Preprocessing(), Geometry(), None, found))
        assert [place.names for place in find_class_names(given, []).found] == expected
