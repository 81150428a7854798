"""`odin-beam score --from_features`: other detectors from kept features, as if the images had been scored again."""

import shutil

import numpy as np
import pytest

from odin_beam.pipeline.main import main
from odin_beam.transforms.detectors.registry import ALL, FITTED_DETECTORS
from odin_beam.transforms.fitting.reference_file import write_reference
from odin_beam.transforms.scoring import score_features as module
from odin_beam.transforms.scoring import scorer as scorer_module
from odin_beam.transforms.storage import writing
from tests.helpers import samples
from tests.helpers.feature_fits import fit, images
from tests.helpers.score_runs import command, everything, last_line, read, rows

FROM_SCORES = ("shard", "index", "offset", "id", "label", "prediction", "odin", "odin_logit", "cam_var", "cam_max")


@pytest.fixture(scope="module")
def kept(model, archive_folder, tmp_path_factory):
    """The archive with kept features in `out`, a reference, and the direct scores in `direct`; images are gone."""
    folder, copy = archive_folder
    home = tmp_path_factory.mktemp("kept")
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    samples.write_shard(folder / "in-2.tfrecord", [samples.example(image=b"none"), *samples.examples(MORE, LABELS)])
    more = ("--max_rejected=1", "--check=false")
    argv = ["fit", f"--model={model}", f"--in_distribution=known={folder}/in-*.tfrecord", "--bank=40"]
    assert main([*argv, *more, f"--output={home}/reference.npz"]) == 0
    for dtype in ("float32", "float16"):
        argv = command(model, folder, *more, f"--features={dtype}")
        assert main([*argv, f"--output={home}/{dtype}"]) == 0
    argv = command(model, folder, *more, f"--reference={home}/reference.npz")
    assert main([*argv, f"--output={home}/direct"]) == 0
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    return home


MORE, LABELS = samples.random_images(30, seed=7), [0, 1, 2] * 10


@pytest.fixture(autouse=True)
def without_model(request, monkeypatch):
    """Neither images nor the model are looked at, once there are features."""
    request.getfixturevalue("kept")
    monkeypatch.setattr(scorer_module, "load_classifier", lambda *_: pytest.fail("the model was loaded"))


def again(kept, output, *more, dtype="float32"):
    return [
        "score",
        f"--from_features={kept}/{dtype}",
        f"--reference={kept}/reference.npz",
        f"--output={output}",
        "--max_rejected=1",
        *more,
    ]


def test_scores_are_those_of_the_images(kept, tmp_path):
    assert main(again(kept, tmp_path / "out")) == 0
    found, direct = rows(tmp_path / "out"), rows(kept / "direct")
    assert [[row[name] for name in FROM_SCORES] for row in found] == [[row[n] for n in FROM_SCORES] for row in direct]
    for name in ALL:
        a, b = (np.array([row[name] for row in table], np.float64) for table in (found, direct))
        assert not np.isnan(b).all()
        # Cosines are in float32: knn, which is 0 to -4, depends on the batch by an ulp of 1, directly as well.
        atol = 1e-6 if name == "knn" else 1e-6 * np.nanstd(b)
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=atol, err_msg=name)
    assert rows(tmp_path / "out", "rejects") == rows(kept / "direct", "rejects")
    summaries = [read(folder, "summary.json") for folder in (tmp_path / "out", kept / "direct")]
    assert summaries[0]["sources"] == summaries[1]["sources"]
    assert summaries[0]["rejected"] == 1
    pairs = [[p["detector"] for p in read(f, "metrics.json")["pairs"]] for f in (tmp_path / "out", kept / "direct")]
    assert pairs[0] == pairs[1] == list(ALL)


def test_other_jobs_take_its_folder(kept, tmp_path):
    assert main(again(kept, tmp_path / "out", "--detectors=msp,odin,knn")) == 0
    assert main(["evaluate", f"--scores={tmp_path}/out"]) == 0
    assert [p["detector"] for p in read(tmp_path / "out", "metrics.json")["pairs"]] == ["odin", "msp", "knn"]


def test_float16_is_close_and_said(kept, tmp_path, capsys):
    assert main(again(kept, tmp_path / "out", dtype="float16")) == 0
    assert "features are float16: scores move by thousandths" in capsys.readouterr().err
    found, direct = rows(tmp_path / "out"), rows(kept / "direct")
    for name in ("msp", "energy", "react", "mds", "rmds", "knn", "vim", "she"):
        a, b = (np.array([row[name] for row in table], np.float64) for table in (found, direct))
        assert np.nanstd(a - b) < 1e-2 * np.nanstd(b), name


@pytest.mark.parametrize("lost", ["known", "foreign"])
def test_a_rerun_scores_what_is_missing(kept, tmp_path, monkeypatch, lost):
    argv, scored, original = again(kept, tmp_path / "out"), [], module.score_features
    assert main(argv) == 0
    before = rows(tmp_path / "out")
    monkeypatch.setattr(module, "score_features", lambda shard, *rest: scored.append(shard) or original(shard, *rest))
    assert main(argv) == 0
    assert scored == []
    path = min((tmp_path / "out/scores" / f"source={lost}").iterdir())
    path.unlink()
    assert main(argv) == 0
    assert [shard.file_name for shard in scored] == [path.name]
    assert rows(tmp_path / "out") == before


def test_a_damaged_or_lost_file_is_a_failed_shard(kept, tmp_path, capsys):
    shutil.copytree(kept / "float32", tmp_path / "float32")
    shutil.copy(kept / "reference.npz", tmp_path)
    first, second, _ = sorted((tmp_path / "float32/features/source=known").iterdir())
    first.unlink()
    shutil.copy(next((tmp_path / "float32/features/source=foreign").iterdir()), second)
    assert main(again(tmp_path, tmp_path / "out")) == 3
    failed = read(tmp_path / "out", "summary.json")["failed_shards"]
    assert [first.name in failed[0]["reason"], second.name in failed[1]["reason"], len(failed)] == [True, True, 2]
    for path in (first, second):
        shutil.copy(kept / "float32/features/source=known" / path.name, path)
    assert main(again(tmp_path, tmp_path / "out")) == 0


def test_another_reference_is_another_run(kept, tmp_path, capsys):
    shutil.copytree(kept / "float32", tmp_path / "float32")
    shutil.copy(kept / "reference.npz", tmp_path)
    assert main(again(tmp_path, tmp_path / "out", "--detectors=msp,knn")) == 0
    write_reference(str(tmp_path / "reference.npz"), fit_of(kept))
    assert main(again(tmp_path, tmp_path / "out", "--detectors=msp,knn")) == 2
    assert "reference_digest was" in last_line(capsys)
    assert main(again(tmp_path, tmp_path / "out", "--detectors=msp,knn", "--overwrite")) == 0


def fit_of(kept, width: int = 6, classes: int = 4, **other):
    """A reference that says to be of this model."""
    settings = read(kept / "float32", "run.json")["settings"]
    names = ("model_digest", "preprocessing", "geometry", "output_name", "model_factory", "precision")
    return fit(images(100, classes, width), 40, **{**{name: settings[name] for name in names}, **other})


def test_what_does_not_serve_is_one_line_and_code_2(kept, tmp_path, capsys):
    output = tmp_path / "out"

    def refused(argv, message):
        assert main(argv) == 2
        assert message in last_line(capsys)
        assert not output.exists()

    before = everything(kept)
    refused(again(kept, output, dtype="direct"), "has no features: `score --features float32` keeps them")
    refused(again(kept, output, dtype="reference-fitting"), "holds the features of a `fit` run")
    refused(again(kept, output, dtype="absent"), "is not an output folder of `score`")
    refused(again(kept, kept / "float32", "--overwrite"), "choose another folder than that of --from_features")
    refused(again(kept, output, "--detectors=mdz"), "mdz")
    refused([*again(kept, output)[:2], f"--output={output}"], "--from_features: give --reference")
    for flag in ("--model=m.keras", "--input=x", "--epsilon=0.1", "--features=float16", "--batch_size=3"):
        name = flag.partition("=")[0]
        refused(again(kept, output, flag), f"give --from_features or {name}, not both")
    for message, reference in {
        "fitted to a different model": fit_of(kept, model_digest="x"),
        "the reference is of 12 features, the model's last layer of 6": fit_of(kept, 12),
    }.items():
        write_reference(str(tmp_path / "other.npz"), reference)
        refused(again(kept, output, f"--reference={tmp_path}/other.npz"), message)
    assert everything(kept) == before


def test_an_unfinished_run_or_a_lost_layer_is_refused(kept, tmp_path, capsys):
    shutil.copytree(kept / "float32", tmp_path / "float32")
    shutil.copy(kept / "reference.npz", tmp_path)
    writing.delete([str(tmp_path / "float32/last_layer.npz")])
    assert main(again(tmp_path, tmp_path / "out")) == 2
    assert "last_layer.npz" in last_line(capsys)
    (tmp_path / "float32/summary.json").unlink()
    assert main(again(tmp_path, tmp_path / "out")) == 2
    assert "is not finished: run its `score` command again first" in last_line(capsys)
    assert not (tmp_path / "out").exists()


def test_columns_that_need_images_are_copied_or_absent(kept, model, archive, tmp_path, capsys, monkeypatch):
    monkeypatch.undo()
    argv = command(model, archive, "--features=float32", "--detectors=msp", "--check=false")
    assert main([*argv, f"--output={tmp_path}/float32"]) == 0
    shutil.copy(kept / "reference.npz", tmp_path)
    assert main(again(tmp_path, tmp_path / "out")) == 0
    row = rows(tmp_path / "out")[0]
    assert {name for name in ALL if row[name] is None} >= {"odin", "cam_var", "cam_max"}
    assert all(row[name] is not None for name in FITTED_DETECTORS)
    assert "odin" not in read(tmp_path / "out", "run.json")["settings"]["detectors"]
    assert main(again(tmp_path, tmp_path / "other", "--detectors=msp,odin")) == 2
    assert "--detectors odin: they need the images" in last_line(capsys)
