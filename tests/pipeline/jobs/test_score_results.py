"""`odin-beam score`: what comes out of it, and that nothing else matters to it."""

import json
import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from odin_beam.pipeline.main import main
from odin_beam.transforms.detectors.registry import CLEAN_DETECTORS
from odin_beam.transforms.scoring.scorer import Scorer
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards import framing
from tests.helpers import samples
from tests.helpers.score_runs import DETECTORS, GOOD, command, read, rows


def test_every_image_is_one_row_and_every_pair_has_its_metrics(model, archive, capsys):
    assert main(command(model, archive)) == 0
    scored = rows(archive / "out")
    assert len(scored) == 90
    assert {row["source"] for row in scored} == {"known", "foreign", "input"}
    assert [row["offset"] is None for row in scored] == [row["shard"].endswith(".gz") for row in scored]
    assert all(row["label"] is None for row in scored if row["source"] != "known")
    first = scored[-1]
    assert first["id"] == f"{os.path.basename(first['shard'])}__{first['index']}"

    metrics = read(archive / "out", "metrics.json")
    pairs = {pair["detector"]: pair for pair in metrics["pairs"]}
    assert list(pairs) == ["odin", *CLEAN_DETECTORS]
    pair_rows = [row for row in scored if row["source"] != "input"]
    for detector, pair in pairs.items():
        truth = [row["source"] == "known" for row in pair_rows]
        assert pair["auroc"] == pytest.approx(roc_auc_score(truth, [row[detector] for row in pair_rows]), abs=1e-9)
        assert (pair["in_count"], pair["out_count"]) == (50, 30)
    known = [row for row in scored if row["source"] == "known"]
    accuracy = np.mean([row["label"] == row["prediction"] for row in known])
    assert metrics["in_distribution"]["known"]["accuracy"] == pytest.approx(accuracy)
    printed = capsys.readouterr().out
    assert f"{100 * pairs['odin']['auroc']:.2f}" in printed
    assert "untuned" in printed

    summary = read(archive / "out", "summary.json")
    assert summary["complete"]
    assert (summary["shards"], summary["framed"], summary["scored"], summary["rejected"]) == (6, 90, 90, 0)
    assert sorted(path.name for path in (archive / "out").iterdir()) == [
        "manifest.parquet",
        "metrics.json",
        "run.json",
        "scores",
        "summary.json",
    ]


@pytest.mark.usefixtures("scored")
def test_the_kernel_in_memory_gives_the_same_scores_as_the_job(model, archive):
    """The job adds nothing to and takes nothing from what ODIN gives for the pixels."""
    settings = ScoreSettings(model, "")
    scorer = Scorer(settings)
    pixels = samples.random_images(50, seed=1).astype(np.float32) / np.float32(255)
    columns = scorer.score(pixels).scored.columns
    for name in DETECTORS:
        got = [row[name] for row in rows(archive / "out") if row["source"] == "known"]
        np.testing.assert_allclose(got, columns[name], rtol=2e-5)


@pytest.mark.usefixtures("scored")
@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_does_not_matter(model, archive, batch_size):
    main([*command(model, archive, f"--batch_size={batch_size}"), f"--output={archive}/other"])
    for a, b in zip(rows(archive / "out"), rows(archive / "other"), strict=True):
        assert (a["shard"], a["index"], a["prediction"]) == (b["shard"], b["index"], b["prediction"])
        assert a["max_logit"] == pytest.approx(b["max_logit"], rel=1e-5)
        assert a["odin_logit"] == pytest.approx(b["odin_logit"], rel=1e-4)


@pytest.mark.usefixtures("scored")
def test_shard_boundaries_do_not_matter(model, archive):
    joined = [record.payload for i in range(3) for record in framing.read_file(f"{archive}/in-{i}.tfrecord")]
    samples.write_shard(archive / "joined.tfrecord", joined)
    main(["score", f"--model={model}", f"--output={archive}/joined", f"--input={archive}/joined.tfrecord"])
    apart = [row["max_logit"] for row in rows(archive / "out") if row["source"] == "known"]
    np.testing.assert_allclose([row["max_logit"] for row in rows(archive / "joined")], apart, rtol=1e-5)


@pytest.mark.usefixtures("scored")
def test_two_runs_give_byte_identical_scores(model, archive):
    main([*command(model, archive), f"--output={archive}/again"])
    assert rows(archive / "out") == rows(archive / "again")


def test_epsilon_0_at_temperature_1_is_msp(model, archive):
    main(command(model, archive, "--epsilon=0", "--temperature=1"))
    for row in rows(archive / "out"):
        assert row["odin"] == row["msp"]


def test_detectors_that_were_not_chosen_are_null(model, archive):
    main(command(model, archive, "--detectors=msp,energy"))
    row = rows(archive / "out")[0]
    assert {name for name in DETECTORS if row[name] is not None} == {"msp", "energy"}
    assert {pair["detector"] for pair in read(archive / "out", "metrics.json")["pairs"]} == {"msp", "energy"}


def test_an_archive_without_roles_gets_scores_and_no_metrics(model, archive, capsys):
    assert main(["score", f"--model={model}", f"--output={archive}/out", f"--input={archive}/new-*"]) == 0
    assert len(rows(archive / "out")) == 10
    assert not (archive / "out" / "metrics.json").exists()


def test_an_empty_shard_is_committed_with_no_rows(model, archive):
    samples.write_shard(archive / "in-9.tfrecord", [])
    assert main(command(model, archive)) == 0
    assert read(archive / "out", "summary.json")["sources"]["known"]["shards"] == 4
    assert len(list((archive / "out/scores/source=known").iterdir())) == 4


def test_shards_of_one_base_name_in_two_folders_do_not_collide(model, tmp_path):
    for folder in ("a", "b"):
        samples.write_shard(tmp_path / folder / "x.tfrecord", GOOD)
    assert main(["score", f"--model={model}", f"--output={tmp_path}/out", f"--input={tmp_path}/*/x.tfrecord"]) == 0
    assert len(rows(tmp_path / "out")) == 8
    assert len({row["shard"] for row in rows(tmp_path / "out")}) == 2


@pytest.mark.usefixtures("scored")
def test_scores_are_one_schema_in_zstd_and_name_their_settings(model, archive):
    files = list((archive / "out").glob("scores/*/*.parquet"))
    assert len({str(pq.read_schema(path).remove_metadata()) for path in files}) == 1
    metadata = pq.read_metadata(files[0])
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert json.loads(metadata.metadata[b"odin_beam"])["settings"]["odin"] == {"temperature": 1000.0, "epsilon": 0.0014}
