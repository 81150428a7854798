"""`odin-beam score --features`: the features that are kept beside the scores."""

import os

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest

from odin_beam.pipeline.main import main
from odin_beam.transforms.fitting.feature_rows import read_last_layer
from odin_beam.transforms.model.classifier import load_classifier
from tests.helpers import samples
from tests.helpers.score_runs import command, counted_shards, everything, last_line, read, rows

QUICK = ("--detectors=odin,msp", "--epsilon=0", "--batch_size=16")


def test_they_are_the_features_that_fit_writes(model, archive, capsys):
    assert main(command(model, archive, "--features=float32", *QUICK)) == 0
    assert "features: about 2.2 kB for 91 images (6 float32 each)" in capsys.readouterr().err
    argv = ["fit", f"--model={model}", f"--in_distribution=known={archive}/in-*", f"--output={archive}/r.npz"]
    assert main([*argv, "--batch_size=16"]) == 0
    kept, fitted = rows(archive / "out", "features"), rows(archive / "r-fitting", "features")
    assert [row for row in kept if row["source"] == "known"] == fitted
    assert [(row["source"], row["shard"], row["index"], row["label"], row["prediction"]) for row in kept] == [
        (row["source"], row["shard"], row["index"], row["label"], row["prediction"]) for row in rows(archive / "out")
    ]
    layer = load_classifier(model).last_layer
    np.testing.assert_array_equal(read_last_layer(str(archive / "out")).kernel, layer.kernel)


def test_scores_are_those_of_a_run_without_them(model, archive):
    assert main(command(model, archive, *QUICK)) == 0
    scores = rows(archive / "out")
    assert "kept_features" not in read(archive / "out", "run.json")["settings"]
    assert main(command(model, archive, *QUICK, "--features=float16", "--overwrite")) == 0
    assert rows(archive / "out") == scores
    assert read(archive / "out", "run.json")["settings"]["kept_features"] == "float16"


def test_a_rerun_adds_nothing(model, archive, monkeypatch):
    argv = command(model, archive, "--features=float32", *QUICK)
    assert main(argv) == 0
    before, scored = everything(archive / "out/features"), counted_shards(monkeypatch)
    assert main(argv) == 0
    assert scored == []
    assert everything(archive / "out/features") == before


@pytest.mark.parametrize("table", ["features", "scores"])
def test_a_shard_that_lacks_a_file_is_scored_again(model, archive, monkeypatch, table):
    argv = command(model, archive, "--features=float32", *QUICK)
    assert main(argv) == 0
    before = {name: rows(archive / "out", name) for name in ("features", "scores")}
    (lost,) = (archive / "out" / table / "source=known").glob("in-1*")
    lost.unlink()
    scored = counted_shards(monkeypatch)
    assert main(argv) == 0
    assert scored == ["in-1.tfrecord"]
    assert {name: rows(archive / "out", name) for name in before} == before


def test_features_of_rejects_are_not_kept(model, archive):
    samples.write_shard(archive / "in-1.tfrecord", [samples.example(image=b"none"), *samples.examples(IMAGES)])
    assert main(command(model, archive, "--features=float32", *QUICK, "--max_rejected=1")) == 0
    (path,) = (archive / "out/features/source=known").glob("in-1*")
    assert pq.read_table(path, partitioning=None)["index"].to_pylist() == [1, 2, 3]


IMAGES = samples.random_images(3, seed=5)


def test_float16_rounds_and_never_overflows(archive, tmp_path):
    inputs = keras.Input((8, 8, 3))
    hidden = keras.layers.Dense(5)(keras.layers.Flatten()(inputs))
    large = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Rescaling(1e5)(hidden)))
    model = samples.save_model(large, tmp_path / "large.keras")
    found = []
    for dtype in ("float32", "float16"):
        assert main(command(model, archive, f"--features={dtype}", *QUICK, "--overwrite", "--check=false")) == 0
        found.append(np.array([row["features"] for row in rows(archive / "out", "features")], np.float64))
    assert np.abs(found[0]).max() > 65504
    np.testing.assert_allclose(found[1], np.clip(found[0], -65504, 65504), rtol=2**-11)


def test_other_features_are_another_run(model, archive, capsys):
    assert main(command(model, archive, *QUICK)) == 0
    assert main(command(model, archive, *QUICK, "--features=float32")) == 2
    assert 'kept_features was null, is "float32"' in last_line(capsys)


def test_a_model_without_a_dense_last_layer_is_refused(archive, tmp_path, capsys):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(inputs))
    model = samples.save_model(keras.Model(inputs, x), tmp_path / "m.keras")
    assert main(command(model, archive, "--features=float32")) == 2
    assert "features and fitted detectors need a model that ends in a dense layer" in last_line(capsys)
    assert not os.path.exists(archive / "out")


def test_fit_does_not_go_on_in_such_a_folder(model, archive, capsys):
    assert main([*command(model, archive, "--features=float16", *QUICK), f"--output={archive}/r-fitting"]) == 0
    argv = ["fit", f"--model={model}", f"--in_distribution=known={archive}/in-*", f"--output={archive}/r.npz"]
    assert main(argv) == 2
    assert "holds float16 features" in last_line(capsys)
