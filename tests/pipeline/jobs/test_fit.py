"""`odin-beam fit` as its user meets it."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest

from odin_beam.pipeline.main import main
from odin_beam.transforms import errors
from odin_beam.transforms.fitting import fit_reference_file
from odin_beam.transforms.fitting.fit_steps import FitSteps
from odin_beam.transforms.fitting.reference_file import read_reference
from odin_beam.transforms.images.digest import image_digest
from odin_beam.transforms.model.classifier import load_classifier
from odin_beam.transforms.scoring import scorer as scorer_module
from odin_beam.transforms.storage import writing
from tests.helpers import samples
from tests.helpers.feature_fits import comparable
from tests.helpers.score_runs import counted_shards, everything, last_line, read

IMAGES, LABELS = samples.random_images(120, seed=4), np.random.default_rng(4).integers(0, 4, 120)


def write(folder, shards: int, images=IMAGES, labels=LABELS):
    """The images in so many shards of unequal sizes."""
    shutil.rmtree(folder, ignore_errors=True)
    cuts = np.linspace(0, 1, shards + 1) ** 1.5 * len(images)
    for i, (start, end) in enumerate(zip(cuts[:-1].astype(int), cuts[1:].astype(int), strict=True)):
        part = None if labels is None else labels[start:end].tolist()
        samples.write_shard(folder / f"in-{i:03d}.tfrecord", samples.examples(images[start:end], part))
    return folder


def command(model, folder, output, *more):
    argv = ["fit", f"--model={model}", f"--in_distribution=known={folder}/in-*.tfrecord", f"--output={output}"]
    # Alone, an image has the same features to the last bit, whatever the shards.
    return [*argv, "--check=false", "--batch_size=1", *more]


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """A fit of one shard that nobody disturbs; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    assert main(command(model, write(folder / "data", 1), folder / "reference.npz", "--bank=40")) == 0
    return folder


def equal(reference, other):
    """Whether two references are of the same images and statistics."""
    assert reference.about["images"] == other.about["images"]
    np.testing.assert_array_equal(reference.digests, other.digests)
    arrays, others = comparable(reference), comparable(other)
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        if name in ("bank", "bank_energies", "counts"):
            np.testing.assert_array_equal(array, others[name], name)
        else:
            scale = np.max(np.abs(array[np.isfinite(array)]), initial=0)
            np.testing.assert_allclose(array, others[name], rtol=1e-9, atol=1e-9 * scale, err_msg=name)


def test_features_are_those_that_give_the_model_s_logits(model, made):
    (path,) = (made / "reference-fitting/features/source=known").iterdir()
    table = pq.read_table(path, partitioning=None)
    assert table.schema.field("features").type.list_size == 6
    assert table.column_names == [*("shard", "index", "id", "uri", "image_digest", "label", "prediction", "features")]
    classifier = load_classifier(model)
    logits = classifier.logits(IMAGES.astype(np.float32) / 255).numpy()
    features = np.array(table["features"].to_pylist(), np.float32)
    kernel, bias = np.asarray(classifier.last_layer.kernel), np.asarray(classifier.last_layer.bias)
    np.testing.assert_allclose(features @ kernel + bias, logits, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(table["prediction"], logits.argmax(axis=1))
    np.testing.assert_array_equal(table["label"], LABELS)
    assert table["image_digest"].to_pylist() == [image_digest(samples.encoded(image)) for image in IMAGES]
    encodings = {e for c in range(8) for e in pq.read_metadata(path).row_group(0).column(c).encodings}
    assert not any("DICTIONARY" in encoding for encoding in encodings)


def test_the_reference_tells_what_it_was_made_from(model, made):
    reference = read_reference(str(made / "reference.npz"))
    assert reference.about["model_digest"] == read(made / "reference-fitting", "run.json")["settings"]["model_digest"]
    assert reference.about["images"] == 120
    assert reference.about["classes_from"] == {"labels": 120, "predictions": 0}
    assert reference.about["sources"] == ["known"]
    assert reference.about["geometry"]["resize"] == "stretch"
    np.testing.assert_array_equal(reference.counts, np.bincount(LABELS, minlength=4))
    assert sorted(reference.digests) == sorted(image_digest(samples.encoded(image)) for image in IMAGES)
    assert len(reference.bank) == 40


@pytest.mark.parametrize("shards", [7, 100])
def test_shards_make_no_difference(model, made, tmp_path, shards):
    assert main(command(model, write(tmp_path / "data", shards), tmp_path / "r.npz", "--bank=40")) == 0
    equal(read_reference(str(tmp_path / "r.npz")), read_reference(str(made / "reference.npz")))


def test_the_sample_is_the_lowest_digests_whatever_the_shards(model, tmp_path):
    found = []
    for shards in (1, 5):
        folder = tmp_path / str(shards)
        assert main(command(model, write(folder / "data", shards), folder / "r.npz", "--bank=40", "--sample=50")) == 0
        found.append(read_reference(str(folder / "r.npz")))
    equal(*found)
    digests = np.array([image_digest(samples.encoded(image)) for image in IMAGES])
    lowest = digests[np.argsort(digests.view(np.uint64))[:50]]
    np.testing.assert_array_equal(found[0].digests, np.sort(lowest))
    assert found[0].counts.sum() == found[0].about["images"] == 50


def test_a_fit_whose_process_is_killed_goes_on(model, made, tmp_path):
    argv = command(model, write(tmp_path / "data", 7), tmp_path / "r.npz", "--bank=40")
    folder = tmp_path / "r-fitting"
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-m", "odin_beam", *argv], cwd=samples.ROOT, **pipes) as process:
        while process.poll() is None and not list(folder.glob("features/*/*.parquet")):
            time.sleep(0.005)
        process.kill()
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("features/*/*.parquet")}
    assert finished
    assert main(argv) == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    equal(read_reference(str(tmp_path / "r.npz")), read_reference(str(made / "reference.npz")))
    assert not (folder / writing.TEMPORARY).exists()


@pytest.mark.parametrize("step", ["read_moments", "merge_moments", "read_residuals", "write_reference"])
def test_a_fit_that_stops_between_steps_goes_on(model, made, tmp_path, monkeypatch, capsys, step):
    argv, calls = command(model, write(tmp_path / "data", 7), tmp_path / "r.npz", "--bank=40"), []
    owner = fit_reference_file if step == "write_reference" else FitSteps
    original = getattr(owner, step)

    def stopped(*given):
        calls.append(given)
        if len(calls) > (2 if step.startswith("read_") else 0):
            raise RuntimeError("killed")
        return original(*given)

    monkeypatch.setattr(owner, step, stopped)
    assert main(argv) == 1
    monkeypatch.undo()
    folder = tmp_path / "r-fitting"
    left = {path: path.stat().st_mtime_ns for path in folder.glob("statistics/*.npz")}
    assert left
    assert not (tmp_path / "r.npz").exists()
    # Some of what there was is lost as well.
    min(left).unlink()
    sorted(folder.glob("features/*/*"))[3].unlink()
    scored, kept = counted_shards(monkeypatch), {}
    remove = writing.delete_folder
    monkeypatch.setattr(
        writing,
        "delete_folder",
        lambda path: (kept.update({p: p.stat().st_mtime_ns for p in Path(path).glob("*.npz")}), remove(path)),
    )
    assert main(argv) == 0
    assert len(scored) == 1
    assert {path: kept[path] for path in sorted(left)[1:]} == {path: left[path] for path in sorted(left)[1:]}
    equal(read_reference(str(tmp_path / "r.npz")), read_reference(str(made / "reference.npz")))
    assert not (folder / "statistics").exists()


def test_a_finished_reference_is_not_written_again(model, made, capsys, monkeypatch):
    before = everything(made)
    monkeypatch.setattr(scorer_module, "load_classifier", lambda *_: pytest.fail("the model was loaded"))
    assert main(command(model, made / "data", made / "reference.npz", "--bank=40")) == 0
    said = capsys.readouterr().out
    assert "is finished: it was fitted to just these images" in said
    assert said.splitlines()[-1].startswith("next: odin-beam tune --model ")
    assert everything(made) == before


def test_another_bank_needs_no_new_features(model, made, tmp_path, monkeypatch, capsys):
    shutil.copytree(made, tmp_path / "copy")
    argv = command(model, made / "data", tmp_path / "copy/reference.npz", "--bank=20")
    scored = counted_shards(monkeypatch)
    assert main(argv) == 0
    assert "was made with other images or settings: it will be replaced" in capsys.readouterr().err
    assert scored == []
    assert len(read_reference(str(tmp_path / "copy/reference.npz")).bank) == 20


def test_overwrite_computes_everything_again(model, made, tmp_path, monkeypatch, capsys):
    shutil.copytree(made, tmp_path / "copy")
    output = tmp_path / "copy/reference.npz"
    before, scored = output.stat(), counted_shards(monkeypatch)
    assert main(command(model, made / "data", output, "--bank=40", "--overwrite")) == 0
    assert len(scored) == 1
    assert output.stat().st_ino != before.st_ino
    assert "with other images or settings" not in capsys.readouterr().err


def test_a_lost_reference_is_made_again_from_the_features(model, made, tmp_path, monkeypatch):
    shutil.copytree(made, tmp_path / "copy")
    argv = command(model, made / "data", tmp_path / "copy/reference.npz", "--bank=40")
    (tmp_path / "copy/reference.npz").unlink()
    scored = counted_shards(monkeypatch)
    assert main(argv) == 0
    assert scored == []
    assert (
        read_reference(str(tmp_path / "copy/reference.npz")).digest
        == read_reference(str(made / "reference.npz")).digest
    )


def test_what_is_printed(model, made, tmp_path, capsys):
    assert main(command(model, made / "data", tmp_path / "r.npz")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "known: 120 images in 1 shard"
    assert "classes, from labels:" in lines
    shown = [line.split() for line in lines if line.endswith(" %")]
    assert {int(row[0]) for row in shown} == {0, 1, 2, 3}
    assert [float(row[2]) for row in shown] == sorted(float(row[2]) for row in shown)
    assert any(line.startswith("detectors: react, ") for line in lines)
    assert lines[-1].startswith(f"next: odin-beam tune --model {model} ")
    assert f"--reference {tmp_path}/r.npz --in_distribution VALIDATION --output calibration.json" in lines[-1]
    fit = read(tmp_path / "r-fitting", "summary.json")["fit"]
    assert fit["classes"]["images"] == np.bincount(LABELS, minlength=4).tolist()
    assert fit["bytes"] == (tmp_path / "r.npz").stat().st_size


def test_without_labels_classes_are_predictions(model, tmp_path, capsys):
    assert main(command(model, write(tmp_path / "data", 2, labels=None), tmp_path / "r.npz")) == 0
    assert "classes, from predictions, since there are no labels" in capsys.readouterr().out
    assert read_reference(str(tmp_path / "r.npz")).about["classes_from"] == {"labels": 0, "predictions": 120}


def test_few_images_are_marked_in_words(model, tmp_path, capsys):
    assert main(command(model, write(tmp_path / "data", 1, IMAGES[:8], LABELS[:8]), tmp_path / "r.npz")) == 0
    printed = capsys.readouterr().out
    assert "too few images for mds, rmds, mds_unit, rmds_unit, gen_mds_unit: fewer than features" in printed


def test_rejects_are_counted_and_too_many_are_an_exit_code(model, tmp_path, capsys):
    folder = write(tmp_path / "data", 1)
    samples.write_shard(folder / "in-9.tfrecord", [samples.example(image=b"no image", label=1)] * 5)
    assert main(command(model, folder, tmp_path / "r.npz")) == 3
    assert "4.00% of the records were rejected" in capsys.readouterr().out
    assert main(command(model, folder, tmp_path / "r.npz", "--max_rejected=0.1")) == 0
    assert read_reference(str(tmp_path / "r.npz")).about["images"] == 120
    assert read(tmp_path / "r-fitting", "summary.json")["rejected"] == 5


def test_a_failed_shard_leaves_no_reference(model, tmp_path, monkeypatch, capsys):
    folder = write(tmp_path / "data", 3)
    original = FitSteps.read_moments

    def damaged(self, group, shards, sample):
        if any(shard.path.endswith("in-001.tfrecord") for shard in shards):
            raise errors.StorageError(f"{shards[0].file_name} is damaged")
        return original(self, group, shards, sample)

    monkeypatch.setattr(FitSteps, "read_moments", damaged)
    assert main(command(model, folder, tmp_path / "r.npz")) == 3
    assert "no reference without these shards" in capsys.readouterr().out
    assert not (tmp_path / "r.npz").exists()
    monkeypatch.undo()
    assert main(command(model, folder, tmp_path / "r.npz")) == 0


def test_a_model_without_a_dense_layer_is_refused_in_one_line(tmp_path, capsys):
    inputs = keras.Input((8, 8, 3))
    conv = keras.layers.Conv2D(4, 3, bias_initializer=keras.initializers.Constant(5))  # no probabilities
    x = keras.layers.GlobalAveragePooling2D()(conv(inputs))
    model = samples.save_model(keras.Model(inputs, x), tmp_path / "m.keras")
    assert main(command(model, write(tmp_path / "data", 1), tmp_path / "r.npz")) == 2
    assert "features and fitted detectors need a model that ends in a dense layer" in last_line(capsys)
    assert not (tmp_path / "r-fitting").exists()


def test_usage_errors_write_nothing(model, made, tmp_path, capsys):
    assert main(["fit", f"--model={model}", f"--output={tmp_path}/r.npz"]) == 2
    assert "nothing to fit to: give --in_distribution" in last_line(capsys)
    (tmp_path / "other.npz").write_text("mine")
    assert main(command(model, made / "data", tmp_path / "other.npz")) == 2
    assert "--output exists and is not a reference" in last_line(capsys)
    assert main(command(model, made / "data", tmp_path)) == 2
    assert "is a folder: give the name of a file" in last_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["other.npz"]


def test_a_folder_of_other_settings_is_refused_or_overwritten(model, made, tmp_path, capsys):
    shutil.copytree(made, tmp_path / "copy")
    argv = command(model, made / "data", tmp_path / "copy/reference.npz", "--preprocessing=byte")
    assert main(argv) == 2
    assert "preprocessing.name was" in last_line(capsys)
    assert main([*argv, "--overwrite"]) == 0
    about = read_reference(str(tmp_path / "copy/reference.npz")).about
    assert about["preprocessing"]["name"] == "byte"


@pytest.mark.parametrize("job", ["evaluate", "report"])
def test_other_jobs_know_its_folder(made, capsys, job):
    assert main([job, f"--scores={made}/reference-fitting"]) == 2
    assert "holds the features of a `fit` run" in last_line(capsys)


def test_json_of_the_run_has_no_odin(made):
    settings = json.loads((made / "reference-fitting/run.json").read_text())["settings"]
    assert not {"odin", "detectors"} & settings.keys()
