"""`odin-beam tune --reference`: fitted detectors compete, and what follows the calibration finds their reference."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from odin_beam.pipeline.main import main
from odin_beam.transforms.calibration import calibration_content
from odin_beam.transforms.calibration.calibration_file import read_calibration
from odin_beam.transforms.detectors.registry import FITTED_DETECTORS
from odin_beam.transforms.fitting.reference_file import read_reference
from tests.helpers import samples

GRID = ["--temperatures=1,1000", "--epsilons=0"]


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    """A reference, validation images, a calibration of both, and images to judge."""
    folder = tmp_path_factory.mktemp("tuned")
    for name, count, seed in (("train", 200, 1), ("val", 500, 2), ("new", 40, 3)):
        images = samples.random_images(count, seed=seed)
        samples.write_shard(folder / f"{name}-0.tfrecord", samples.examples(images))
    inside = f"--in_distribution=known={folder}/train-*"
    assert main(["fit", f"--model={model}", inside, f"--output={folder}/reference.npz"]) == 0
    assert tune(model, folder, "val") == 0
    return folder


def tune(model, folder, source, output="cal.json"):
    return main(
        [
            *("tune", f"--model={model}", f"--in_distribution=known={folder}/{source}-*", *GRID),
            *(f"--reference={folder}/reference.npz", f"--output={folder}/{output}"),
        ]
    )


def recommend(folder, tmp_path, detector):
    """A calibration as if it recommended this detector."""
    content = json.loads((folder / "cal.json").read_text())
    content["recommendation"]["detector"] = detector
    path = tmp_path / "cal.json"
    path.write_text(json.dumps(content))
    return path


def test_fitted_detectors_are_compared_and_have_thresholds(folder):
    calibration = read_calibration(str(folder / "cal.json"))
    available = set(FITTED_DETECTORS) - read_reference(f"{folder}/reference.npz").unavailable.keys()
    assert available <= calibration.scores.keys()
    compared = {row["detector"] for row in calibration.content["recommendation"]["comparisons"]}
    assert {"odin", "energy"} <= compared
    # A detector without a score for some image cannot be compared, such as one of h / |h| for h = 0.
    assert len(compared & available) >= 5
    assert calibration.content["reference"] == f"{folder}/reference.npz"


def test_score_and_flag_follow_the_calibration_to_its_reference(model, folder, tmp_path, capsys):
    calibration = recommend(folder, tmp_path, "knn")
    score = ["score", f"--model={model}", f"--calibration={calibration}", f"--input={folder}/new-*"]
    assert main([*score, f"--output={tmp_path}/scores"]) == 0
    capsys.readouterr()
    assert main(["flag", f"--scores={tmp_path}/scores", f"--calibration={calibration}"]) == 0
    assert "detector: knn, recommended by" in capsys.readouterr().out
    flags, scores = (pq.ParquetDataset(tmp_path / "scores" / table).read() for table in ("flags", "scores"))
    np.testing.assert_allclose(flags["score"].to_numpy(), scores["knn"].to_numpy())

    assert main([*score, f"--output={tmp_path}/others", "--detectors=odin,gen"]) == 0
    capsys.readouterr()
    assert main(["flag", f"--scores={tmp_path}/others", f"--calibration={calibration}"]) == 2
    assert "others was not scored with the reference that" in capsys.readouterr().err


def test_another_reference_than_the_calibrations_is_refused(model, folder, tmp_path, capsys):
    other = f"{tmp_path}/other.npz"
    assert main(["fit", f"--model={model}", f"--in_distribution=known={folder}/new-*", f"--output={other}"]) == 0
    capsys.readouterr()
    argv = ["score", f"--model={model}", f"--calibration={folder}/cal.json", f"--input={folder}/new-*"]
    assert main([*argv, f"--reference={other}", f"--output={tmp_path}/scores"]) == 2
    assert "is another reference than the one that --calibration was tuned with" in capsys.readouterr().err


def test_images_that_were_fitted_to_are_refused_at_launch(model, folder, capsys):
    assert tune(model, folder, "train", "again.json") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "images looked at are among those that --reference was fitted to" in line
    assert not (folder / "again.json").exists()


def test_a_single_image_that_was_fitted_to_is_found_in_the_end(model, folder, tmp_path, monkeypatch, capsys):
    reference = read_reference(f"{folder}/reference.npz")
    original = calibration_content.read_grid_scores

    def with_a_known_image(*arguments):
        inside, outside = original(*arguments)
        inside.digests[0] = reference.digests[0]
        return inside, outside

    monkeypatch.setattr(calibration_content, "read_grid_scores", with_a_known_image)
    assert tune(model, folder, "val", "again.json") != 0
    assert "1 of 500 in-distribution images are among those that the reference was fitted to" in capsys.readouterr().err
    assert not (folder / "again.json").exists()
