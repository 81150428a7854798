"""Images in memory get the batch job's rows."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pyarrow.dataset as ds
import pytest

import odin_beam
from odin_beam.pipeline.main import main
from odin_beam.transforms.errors import CalibrationError, FeatureReferenceError, ImageError, StorageError
from tests.helpers import samples

IMAGES = samples.random_images(70, (11, 9, 3), seed=5)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run over loose files with a reference, a calibration and flags; one file is no image."""
    folder = tmp_path_factory.mktemp("scorer")
    model = samples.save_model(samples.small_model(), folder / "small.keras")
    samples.save_model(samples.small_model(seed=1), folder / "other.keras")
    for name, count, seed in (("fit", 200, 7), ("val", 400, 9)):
        payloads = samples.examples(samples.random_images(count, seed=seed), [0, 1, 2, 3] * (count // 4))
        samples.write_shard(folder / f"{name}.tfrecord", payloads)
    (folder / "files").mkdir()
    for index, image in enumerate(IMAGES):
        (folder / f"files/{index:03}.png").write_bytes(samples.encoded(image))
    (folder / "files/bad.png").write_bytes(b"\x89PNG\r\n\x1a\n but then nothing")
    (folder / "names.txt").write_text("cat\ndog\nowl\nfox\n")
    fed = [f"--model={model}", "--check=false"]
    assert main(["fit", *fed, f"--in_distribution={folder}/fit.tfrecord", f"--output={folder}/r.npz"]) == 0
    tune = [f"--in_distribution={folder}/val.tfrecord", "--temperatures=10", "--epsilons=0,0.01"]
    reference = f"--reference={folder}/r.npz"
    assert main(["tune", *fed, *tune, reference, f"--output={folder}/cal.json"]) == 0
    calibrated = f"--calibration={folder}/cal.json"
    score = ["score", *fed, calibrated, f"--class_names={folder}/names.txt", "--max_rejected=1"]
    assert main([*score, f"--input=files:{folder}/files/*.png", f"--output={folder}/scores"]) == 0
    assert main(["flag", f"--scores={folder}/scores", calibrated]) == 0
    return folder


def rows(folder, table="scores"):
    found = ds.dataset(folder / "scores" / table, partitioning="hive").to_table().sort_by("index").to_pylist()
    return {row["id"]: row for row in found}


@pytest.fixture(scope="module")
def scorer(made):
    return odin_beam.OdinScorer(
        made / "small.keras", calibration=made / "cal.json", class_names=("cat", "dog", "owl", "fox")
    )


def test_rows_are_those_of_the_run_to_the_last_bit(made, scorer):
    scored, flags, rejects = rows(made), rows(made, "flags"), rows(made, "rejects")
    # In the order and batches of the run.
    paths = sorted([*scored, *rejects])
    found = scorer.score(paths)
    assert [row["id"] for row in found] == paths
    for row in found:
        path = row["id"]
        if path in rejects:
            assert {name: row[name] for name in ("uri", "reason", "detail")} == {
                name: rejects[path][name] for name in ("uri", "reason", "detail")
            }
            continue
        expected = {name: value for name, value in scored[path].items() if name in row and name != "uri"}
        assert len(expected) > 20
        assert {name: row[name] for name in expected} == expected
        assert (row["p_value"], row["is_ood"]) == (flags[path]["p_value"], flags[path]["is_ood"])
    assert sum("reason" in row for row in found) == 1
    assert len({row["p_value"] for row in found if "p_value" in row}) > 5


def close(one, other):
    for name, value in one.items():
        if isinstance(value, float):
            assert math.isclose(value, other[name], rel_tol=1e-5, abs_tol=1e-6), name
        elif name not in ("id", "uri"):
            assert value == other[name], name


def test_bytes_paths_and_arrays_are_one_image(made, scorer):
    path = made / "files/003.png"
    by_path = scorer.score_one(path)
    assert (by_path["id"], by_path["uri"]) == (str(path), str(path))
    by_bytes = scorer.score_one(path.read_bytes())
    assert (by_bytes["id"], by_bytes["uri"]) == (None, None)
    for row in (by_bytes, scorer.score_one(IMAGES[3]), scorer.score([IMAGES[3]])[0]):
        assert {**row, "id": 0, "uri": 0} == {**by_path, "id": 0, "uri": 0}
    # Alone or among others, and as floats, which are resized in other steps.
    close(by_path, scorer.score(list(IMAGES[:10]))[3])
    close(by_path, scorer.score_one(IMAGES[3].astype(np.float32) / 255))


def test_floats_of_the_model_s_size_are_taken_as_they_are(made):
    scorer = odin_beam.OdinScorer(made / "small.keras", detectors=("msp",))
    image = samples.random_images(1, seed=3)[0]
    assert scorer.score_one(image) == scorer.score_one(image / np.float32(255))
    assert "p_value" not in scorer.score_one(image)


def test_grey_and_alpha_are_treated_as_in_files(made, scorer):
    grey = IMAGES[0][..., :1]
    colour = np.repeat(grey, 3, axis=2)
    assert scorer.score_one(grey) == scorer.score_one(grey[..., 0]) == scorer.score_one(colour)
    alpha = np.concatenate([IMAGES[0], grey], axis=2)
    assert scorer.score_one(alpha) == scorer.score_one(IMAGES[0])


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((8, 8, 3), np.float32) - 0.01, "lie in"),
        (np.full((8, 8, 3), 255.0), "lie in"),
        (np.full((8, 8, 3), np.nan), "lie in"),
        (np.zeros((8, 8, 3), np.int64), "uint8, or floats"),
        (np.zeros((8, 8, 3), bool), "uint8, or floats"),
        (np.zeros((3, 8, 8), np.uint8), r"not \(3, 8, 8\)"),
        (np.zeros((1, 8, 8, 3), np.uint8), "height, width, channels"),
        (np.zeros((0, 8, 3), np.uint8), "height, width, channels"),
        (np.zeros((8, 8), np.float32), "the model's 3 channels, not 1"),
    ],
)
def test_a_wrong_range_or_layout_is_an_error(scorer, array, words):
    with pytest.raises(ValueError, match=words):
        scorer.score([array])


def test_what_cannot_be_scored_is_a_reject_or_for_one_image_an_error(made, scorer):
    assert scorer.score([]) == []
    for one in ("photo.png", b"bytes", made / "files/003.png"):
        with pytest.raises(TypeError, match="use `score_one`"):
            scorer.score(one)
    broken, gone = scorer.score([b"no image", made / "gone.png"])
    assert broken["reason"] == "undecodable"
    assert gone["reason"] == "unreadable"
    assert "gone.png" in gone["detail"]
    with pytest.raises(ImageError) as error:
        scorer.score_one(b"")
    assert error.value.reason == "undecodable"
    with pytest.raises(StorageError, match=r"gone\.png"):
        scorer.score_one(made / "gone.png")
    good = scorer.score([b"x", IMAGES[1], b"y"])
    assert ["reason" in row for row in good] == [True, False, True]
    assert good[1] == scorer.score_one(IMAGES[1])


def test_an_image_without_finite_logits_is_a_reject(tmp_path):
    inputs = keras.Input((8, 8, 3))
    # The logarithm of the darkest pixel: minus infinity for a black image.
    x = keras.layers.Flatten()(keras.ops.log(inputs))
    model = samples.save_model(keras.Model(inputs, keras.layers.Dense(3)(x)), tmp_path / "log.keras")
    scorer = odin_beam.OdinScorer(model, detectors=("msp",))
    white, black = np.full((8, 8, 3), 255, np.uint8), np.zeros((8, 8, 3), np.uint8)
    rows = scorer.score([black, white, black])
    assert [row.get("reason") for row in rows] == ["non_finite_logits", None, "non_finite_logits"]
    assert rows[1] == scorer.score_one(white)
    with pytest.raises(ImageError, match="NaN or infinity"):
        scorer.score_one(black)


def test_threads_share_it(scorer):
    expected = [scorer.score_one(image) for image in IMAGES[:24]]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(scorer.score_one, IMAGES[:24])) == expected


def test_another_threshold_or_detector(made, scorer):
    strict = odin_beam.OdinScorer(made / "small.keras", calibration=made / "cal.json", tpr=0.5, detector="msp")
    rows = strict.score(list(IMAGES))
    own = odin_beam.read_calibration(str(made / "cal.json")).scores["msp"]
    scores = np.array([row["msp"] for row in rows])
    np.testing.assert_array_equal([row["is_ood"] for row in rows], scores < own.threshold(0.5))
    np.testing.assert_allclose([row["p_value"] for row in rows], own.p_values(scores))


def test_files_that_do_not_fit_are_refused_in_one_line(made, tmp_path):
    model, calibration = made / "small.keras", made / "cal.json"
    with pytest.raises(CalibrationError, match="calibrated for a different model"):
        odin_beam.OdinScorer(made / "other.keras", calibration=calibration)
    with pytest.raises(CalibrationError, match=r"has no scores of nothing, only of odin"):
        odin_beam.OdinScorer(model, calibration=calibration, detector="nothing")
    with pytest.raises(CalibrationError, match="has another preprocessing"):
        odin_beam.OdinScorer(model, calibration=calibration, preprocessing=odin_beam.Preprocessing("byte"))
    with pytest.raises(ValueError, match="tpr must be above 0"):
        odin_beam.OdinScorer(model, calibration=calibration, tpr=1.0)
    for given in ({"detector": "msp"}, {"tpr": 0.9}):
        with pytest.raises(ValueError, match="needs a `calibration`"):
            odin_beam.OdinScorer(model, **given)
    recommended = odin_beam.read_calibration(str(calibration)).recommended
    assert recommended != "odin"
    with pytest.raises(ValueError, match=f"`detectors` leaves out {recommended}"):
        odin_beam.OdinScorer(model, calibration=calibration, detectors=("odin",))
    with pytest.raises(TypeError, match="there is no setting bogus: they are batch_size"):
        odin_beam.OdinScorer(model, bogus=1)
    with pytest.raises(FeatureReferenceError, match="a different model"):
        odin_beam.OdinScorer(made / "other.keras", reference=made / "r.npz")
    content = json.loads(calibration.read_text())
    content["settings"]["reference_digest"] = "0" * 64
    (tmp_path / "cal.json").write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match="calibrated with another reference"):
        odin_beam.OdinScorer(model, calibration=tmp_path / "cal.json")
