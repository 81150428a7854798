"""From where class names stand to the rows of `score`."""

import json

import pyarrow.dataset
import pytest

from odin_beam.pipeline.main import main
from tests.helpers import samples
from tests.helpers.score_runs import read

NAMES = ["cat", "dog", "owl", "fox"]


@pytest.fixture
def images(tmp_path):
    """Validation images with `labels.txt` beside them, foreign ones, and others in a folder without names."""
    (tmp_path / "labels.txt").write_text("\n".join(NAMES) + "\n")
    for name, count, seed in (("validation", 200, 1), ("foreign", 200, 2), ("new/photos", 5, 3)):
        samples.write_shard(tmp_path / f"{name}.tfrecord", samples.examples(samples.random_images(count, seed=seed)))
    return tmp_path


def named(output):
    """Whether every row has the name of its class; False if none has one."""
    rows = pyarrow.dataset.dataset(f"{output}/scores").to_table(columns=["prediction", "class_name"]).to_pylist()
    found = {row["class_name"] == NAMES[row["prediction"]] for row in rows}
    assert len(found) == 1
    return found.pop()


def test_a_calibration_carries_the_names_that_lie_beside_the_validation_images(model, images):
    sources = [f"--in_distribution={images}/validation.tfrecord", f"--out_distribution={images}/foreign.tfrecord"]
    grid = ["--temperatures=1000", "--epsilons=0,0.0014", "--objective=auroc"]
    for _ in range(2):
        # The second time nothing is left to score, and no classifier tells how many classes there are.
        assert main(["tune", f"--model={model}", f"--output={images}/cal.json", *sources, *grid]) == 0
        assert json.loads((images / "cal.json").read_text())["class_names"] == NAMES
    score = ["score", f"--model={model}", f"--calibration={images}/cal.json", f"--input={images}/new/*"]
    assert main([*score, f"--output={images}/out"]) == 0
    assert named(images / "out")
    assert read(images / "out", "run.json")["class_names"] == NAMES


def test_check_keeps_the_names_that_it_is_given(model, images):
    (images / "given.txt").write_text("\n".join(reversed(NAMES)))
    argv = [f"--model={model}", f"--in_distribution={images}/validation.tfrecord", "--preprocessing=unit"]
    assert main(["check", *argv, f"--class_names={images}/given.txt", f"--output={images}/model.json"]) == 0
    assert json.loads((images / "model.json").read_text())["found"]["class_names"] == NAMES[::-1]
    score = ["score", f"--model={model}", f"--model_config={images}/model.json", "--check=false"]
    assert main([*score, f"--in_distribution={images}/validation.tfrecord", f"--output={images}/out"]) == 0
    # The file that feeds the model comes before what lies beside the images.
    assert read(images / "out", "run.json")["class_names"] == NAMES[::-1]


def test_without_names_the_column_is_null(model, images):
    assert main(["score", f"--model={model}", f"--input={images}/new/*", f"--output={images}/out"]) == 0
    assert not named(images / "out")
    assert "class_names" not in read(images / "out", "run.json")


def test_names_of_another_number_beside_the_images_are_said_and_not_used(model, images, capsys):
    (images / "labels.txt").write_text("cat\ndog\n")
    argv = [f"--in_distribution={images}/validation.tfrecord", f"--output={images}/out", "--check=false"]
    assert main(["score", f"--model={model}", *argv]) == 0
    assert f"{images}/labels.txt has 2 names, the model has 4 classes: these names are not used" in (
        capsys.readouterr().err
    )
    assert not named(images / "out")
