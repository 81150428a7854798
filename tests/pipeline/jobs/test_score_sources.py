"""`odin-beam score` on other sources than TFRecords, and on images of another size."""

import os

import numpy as np
import pytest
import tensorflow_datasets as tfds

from odin_beam.pipeline.main import main
from odin_beam.transforms.scoring import scorer as scorer_module
from odin_beam.transforms.scoring.scorer import Scorer
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.contents import image_list
from odin_beam.transforms.shards.contents.noise import noise_image
from tests.helpers import samples
from tests.helpers.score_runs import DETECTORS, counted_shards, read, rows


@pytest.fixture
def pictures(tmp_path):
    """Ten PNG in two folders, and the same ingested."""
    for i, image in enumerate(samples.random_images(10, seed=5)):
        path = tmp_path / f"photos/{'ab'[i % 2]}/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(samples.encoded(image))
    assert main(["ingest", f"--images={tmp_path}/photos", f"--output={tmp_path}/shards/p", "--shards=3"]) == 0
    return tmp_path


def score_values(output):
    """Scores by the file name of the image."""
    return {os.path.basename(row["id"]): [row[name] for name in ("prediction", *DETECTORS)] for row in rows(output)}


def test_loose_files_give_the_scores_of_the_same_images_ingested(model, pictures):
    base = ["score", f"--model={model}"]
    assert main([*base, f"--output={pictures}/1", f"--input={pictures}/shards/*.tfrecord"]) == 0
    assert main([*base, f"--output={pictures}/2", f"--input=files:{pictures}/photos/**.png"]) == 0
    assert len(score_values(pictures / "1")) == 10
    for name, values in score_values(pictures / "2").items():
        assert values == pytest.approx(score_values(pictures / "1")[name], rel=1e-5)
    first = rows(pictures / "2")[0]
    assert first["id"] == f"{pictures}/photos/a/0.png"
    assert (first["shard"], first["index"], first["offset"]) == (f"files:{pictures}/photos/**.png", 0, None)


@pytest.mark.parametrize(
    ("flags", "resize", "crop"),
    [
        ([], "stretch", "none"),
        (["--crop=center"], "none", "center"),
        (["--crop=center", "--resize=shorter_side"], "shorter_side", "center"),
        (["--resize=none"], "none", "none"),
    ],
)
def test_crop_and_resize_variants_of_the_paper_are_a_flag_away(model, tmp_path, flags, resize, crop):
    larger = samples.random_images(3, (12, 12, 3))
    shard = samples.write_shard(tmp_path / "x.tfrecord", samples.examples(larger))
    main(["score", f"--model={model}", f"--output={tmp_path}/out", f"--input={shard}", "--max_rejected=1", *flags])
    geometry = read(tmp_path / "out", "run.json")["settings"]["geometry"]
    assert (geometry["resize"], geometry["crop"]) == (resize, crop)
    assert geometry["jpeg"] == "accurate"
    scorer = Scorer(ScoreSettings(model, ""))
    if flags == ["--crop=center"]:
        expected = scorer.score(larger[:, 2:10, 2:10].astype(np.float32) / np.float32(255)).scored.columns["msp"]
        np.testing.assert_allclose([row["msp"] for row in rows(tmp_path / "out")], expected, rtol=1e-6)


def test_a_manifest_gives_labels_and_ids(model, pictures):
    lines = [f"photos/{'ab'[i % 2]}/{i}.png,{i % 4},{i:03d}" for i in (3, 1, 2)]
    (pictures / "m.csv").write_text("\n".join(["uri,label,id", *lines]))
    source = f"--in_distribution=known=manifest:{pictures}/m.csv"
    assert main(["score", f"--model={model}", f"--output={pictures}/out", source]) == 0
    assert [(r["index"], r["id"], r["label"]) for r in rows(pictures / "out")] == [
        (0, "003", 3),
        (1, "001", 1),
        (2, "002", 2),
    ]
    assert read(pictures / "out", "metrics.json")["in_distribution"]["known"]["accuracy"] is not None


def test_a_loose_file_that_is_no_image_or_went_is_one_reject(model, pictures):
    (pictures / "photos/a/notes.png").write_bytes(bytes(8 * 8 * 3))
    uris = [f"photos/a/{name}.png" for name in ("0", "2", "notes", "gone", "4")]
    (pictures / "m.csv").write_text("\n".join(["uri", *uris]))
    command = ["score", f"--model={model}", f"--output={pictures}/out", f"--input=manifest:{pictures}/m.csv"]
    assert main(command) == 3
    assert len(rows(pictures / "out")) == 3
    rejects = rows(pictures / "out", "rejects")
    assert [(r["index"], r["reason"]) for r in rejects] == [(2, "undecodable"), (3, "not_found")]
    assert (rejects[1]["id"], rejects[1]["uri"]) == ("photos/a/gone.png", f"{pictures}/photos/a/gone.png")


def test_an_output_among_the_images_is_not_taken_for_images(model, pictures):
    command = ["score", f"--model={model}", f"--output={pictures}/photos/out", f"--input=files:{pictures}/photos/**"]
    for _ in range(2):
        assert main(command) == 0
        summary = read(pictures / "photos/out", "summary.json")
        assert (summary["scored"], summary["rejected"]) == (10, 0)


def test_a_rerun_scores_only_the_virtual_shards_that_changed(model, pictures, monkeypatch):
    monkeypatch.setattr(image_list, "IMAGES_PER_SHARD", 4)
    command = ["score", f"--model={model}", f"--output={pictures}/out", f"--input=files:{pictures}/photos/**.png"]
    assert main(command) == 0
    assert read(pictures / "out", "summary.json")["shards"] == 3
    monkeypatch.setattr(scorer_module, "load_classifier", lambda *_: pytest.fail("the model was loaded"))
    assert main(command) == 0
    monkeypatch.undo()
    monkeypatch.setattr(image_list, "IMAGES_PER_SHARD", 4)
    (pictures / "photos/b/9.png").write_bytes(samples.encoded(samples.random_images(1, seed=8)[0]))
    scored = counted_shards(monkeypatch)
    assert main(command) == 0
    assert len(scored) == 1
    assert len(rows(pictures / "out")) == 10


def test_noise_is_scored_as_the_images_that_it_is(model, tmp_path):
    sources = ["--out_distribution=noise:gaussian,noise:uniform", "--noise_count=2100"]
    assert main(["score", f"--model={model}", f"--output={tmp_path}/out", *sources, "--detectors=msp"]) == 0
    scored = rows(tmp_path / "out")
    assert len(scored) == 4200
    assert {row["source"] for row in scored} == {"gaussian", "uniform"}
    last = scored[2099]
    assert (last["shard"], last["index"], last["id"]) == ("noise:gaussian", 2099, "gaussian__2099")
    settings = ScoreSettings(model, "")
    pixels = noise_image("gaussian", 2099, (8, 8, 3))[None]
    assert last["msp"] == pytest.approx(Scorer(settings).score(pixels).scored.columns["msp"][0], rel=1e-5)


def test_a_prepared_data_set_is_read_where_it_lies(model, tmp_path):
    images = samples.random_images(6, seed=6)
    features = {
        "photo": tfds.features.Image(shape=(8, 8, 3)),
        "breed": tfds.features.ClassLabel(names=["cat", "dog", "owl", "fox"]),
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny",
        version="1.0.0",
        data_dir=tmp_path / "tfds",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"test": [(i, {"photo": image, "breed": i % 4}) for i, image in enumerate(images)]},
        disable_shuffling=True,
    )
    sources = ["--in_distribution=tfds:tiny/test", f"--tfds_data_dir={tmp_path}/tfds"]
    assert main(["score", f"--model={model}", f"--output={tmp_path}/out", *sources, "--check=false"]) == 0
    scored = rows(tmp_path / "out")
    names = [["cat", "dog", "owl", "fox"][row["prediction"]] for row in scored]
    assert [row["class_name"] for row in scored] == names
    assert [(row["source"], row["id"], row["label"]) for row in scored] == [
        ("tiny", f"tiny-test.tfrecord-00000-of-00001__{i}", i % 4) for i in range(6)
    ]
    scorer = Scorer(ScoreSettings(model, ""))
    expected = scorer.score(images.astype(np.float32) / np.float32(255)).scored.columns["odin_logit"]
    np.testing.assert_allclose([row["odin_logit"] for row in scored], expected, rtol=1e-5)
