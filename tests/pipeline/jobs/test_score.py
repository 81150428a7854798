"""`odin-beam score` as its user meets it: what comes out, resume, and what happens to bad input."""

import json
import os
import shlex
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import keras
import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from sklearn.metrics import roc_auc_score

from odin_beam.pipeline.launch import scoring_run
from odin_beam.pipeline.main import main
from odin_beam.transforms import errors
from odin_beam.transforms.detectors.registry import CLEAN_DETECTORS
from odin_beam.transforms.scoring import score_shards
from odin_beam.transforms.scoring import scorer as scorer_module
from odin_beam.transforms.scoring.scorer import Scorer
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards import framing
from odin_beam.transforms.shards.contents import image_list
from odin_beam.transforms.shards.contents.noise import noise_image
from odin_beam.transforms.storage import writing
from odin_beam.transforms.tables import scores_file
from tests.helpers import samples

ROOT = Path(__file__).resolve().parents[3]
DETECTORS = ["odin", "odin_logit", *CLEAN_DETECTORS]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return samples.save_model(samples.small_model(), tmp_path_factory.mktemp("model") / "small.keras")


@pytest.fixture
def archive(tmp_path):
    """Three sources in six shards: labelled in-distribution, foreign, unknown."""
    rng = np.random.default_rng(1)
    inside = samples.random_images(50, seed=1)
    for i in range(3):
        part = inside[i * 20 : (i + 1) * 20]
        samples.write_shard(
            tmp_path / f"in-{i}.tfrecord", samples.examples(part, rng.integers(0, 4, len(part)).tolist())
        )
    outside = samples.random_images(30, seed=2) // 2
    samples.write_shard(tmp_path / "out-0.tfrecord", samples.examples(outside[:15]))
    samples.write_shard(tmp_path / "out-1.tfrecord.gz", samples.examples(outside[15:]))
    samples.write_shard(tmp_path / "new-0.tfrecord", samples.examples(samples.random_images(10, seed=3)))
    return tmp_path


def command(model, archive, *more):
    return [
        "score",
        f"--model={model}",
        f"--output={archive}/out",
        f"--in_distribution=known={archive}/in-*.tfrecord",
        f"--out_distribution=foreign={archive}/out-*",
        f"--input={archive}/new-*.tfrecord",
        *more,
    ]


def rows(output, folder="scores"):
    """All rows below a folder, in the order of (source, shard, index)."""
    table = pyarrow.dataset.dataset(f"{output}/{folder}", partitioning="hive").to_table()
    return sorted(table.to_pylist(), key=lambda r: (r["source"], r["shard"], r["index"]))


def everything(output):
    """The bytes of every file below a folder."""
    return {path: path.read_bytes() for path in Path(output).rglob("*") if path.is_file()}


def read(output, name):
    return json.loads((Path(output) / name).read_text())


def last_line(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_every_image_becomes_one_row_and_every_pair_gets_its_metrics(model, archive, capsys):
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


def test_the_kernel_in_memory_gives_the_same_scores_as_the_job(model, archive):
    """The job adds nothing to and takes nothing from what ODIN gives for the pixels."""
    main(command(model, archive))
    settings = ScoreSettings(model, "")
    scorer = Scorer(settings)
    pixels = samples.random_images(50, seed=1).astype(np.float32) / np.float32(255)
    columns = scorer.score(pixels).scored.columns
    for name in DETECTORS:
        got = [row[name] for row in rows(archive / "out") if row["source"] == "known"]
        np.testing.assert_allclose(got, columns[name], rtol=2e-5)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_and_shard_boundaries_do_not_matter(model, archive, batch_size):
    main(command(model, archive))
    main([*command(model, archive, f"--batch_size={batch_size}"), f"--output={archive}/other"])
    for a, b in zip(rows(archive / "out"), rows(archive / "other"), strict=True):
        assert (a["shard"], a["index"], a["prediction"]) == (b["shard"], b["index"], b["prediction"])
        assert a["max_logit"] == pytest.approx(b["max_logit"], rel=1e-5)
        assert a["odin_logit"] == pytest.approx(b["odin_logit"], rel=1e-4)

    joined = [record.payload for i in range(3) for record in framing.read_file(f"{archive}/in-{i}.tfrecord")]
    samples.write_shard(archive / "joined.tfrecord", joined)
    main(["score", f"--model={model}", f"--output={archive}/joined", f"--input={archive}/joined.tfrecord"])
    apart = [row["max_logit"] for row in rows(archive / "out") if row["source"] == "known"]
    np.testing.assert_allclose([row["max_logit"] for row in rows(archive / "joined")], apart, rtol=1e-5)


def test_two_runs_give_byte_identical_scores(model, archive):
    main(command(model, archive))
    main([*command(model, archive), f"--output={archive}/again"])
    assert rows(archive / "out") == rows(archive / "again")


def test_epsilon_0_is_the_softmax_at_that_temperature_and_at_temperature_1_msp(model, archive):
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


def counted_shards(monkeypatch):
    """Paths that are really scored from now on."""
    paths, original = [], score_shards.score_shard

    def score_shard(shard, *rest):
        paths.append(os.path.basename(shard.path))
        return original(shard, *rest)

    monkeypatch.setattr(score_shards, "score_shard", score_shard)
    return paths


def test_killed_midway_and_rerun_gives_what_an_uninterrupted_run_gives(model, archive, monkeypatch):
    main([*command(model, archive), f"--output={archive}/whole"])
    output = archive / "out"
    argv = [sys.executable, "-m", "odin_beam", *command(model, archive, "--batch_size=1")]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(output.glob("scores/*/*.parquet"))) < 3:
        assert process.poll() is None
    process.kill()
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in output.glob("scores/*/*.parquet")}
    assert 3 <= len(finished) < 6
    assert not (output / "summary.json").exists()

    scored = counted_shards(monkeypatch)
    assert main(command(model, archive, "--batch_size=64")) == 0
    assert len(scored) == 6 - len(finished)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert not (output / writing.TEMPORARY).exists()
    for a, b in zip(rows(output), rows(archive / "whole"), strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            assert value == pytest.approx(b[name], rel=1e-4) if isinstance(value, float) else value == b[name]


def test_a_finished_run_is_not_scored_again_nor_its_model_loaded(model, archive, monkeypatch):
    main(command(model, archive))
    monkeypatch.setattr(scorer_module, "load_classifier", lambda *_: pytest.fail("the model was loaded"))
    before = rows(archive / "out")
    assert main(command(model, archive)) == 0
    assert rows(archive / "out") == before


def test_only_a_replaced_shard_is_scored_again_and_a_removed_one_is_an_orphan(model, archive, monkeypatch, capsys):
    main(command(model, archive))
    samples.write_shard(archive / "in-1.tfrecord", samples.examples(samples.random_images(3, seed=9)))
    (archive / "in-2.tfrecord").unlink()
    scored = counted_shards(monkeypatch)
    assert main(command(model, archive)) == 0
    assert scored == ["in-1.tfrecord"]
    summary = read(archive / "out", "summary.json")
    assert summary["sources"]["known"]["scored"] == 23
    assert [Path(path).name.startswith("in-2.tfrecord-") for path in summary["orphaned_scores"]] == [True]
    assert read(archive / "out", "metrics.json")["in_distribution"]["known"]["count"] == 23
    assert "belong to inputs that were removed; ignored" in capsys.readouterr().out


def test_an_output_of_other_settings_is_refused_with_the_difference_until_overwritten(model, archive, capsys):
    main(command(model, archive))
    before = everything(archive / "out")
    assert main(command(model, archive, "--epsilon=0.002")) == 2
    assert "odin.epsilon was 0.0014, is 0.002" in last_line(capsys)
    assert everything(archive / "out") == before
    assert main(command(model, archive, "--epsilon=0.002", "--overwrite")) == 0
    assert read(archive / "out", "run.json")["settings"]["odin"]["epsilon"] == 0.002


def test_scores_of_unknown_origin_are_not_mixed_in(model, archive, capsys):
    main(command(model, archive))
    (archive / "out/run.json").unlink()
    assert main(command(model, archive)) == 2
    assert "without run.json" in last_line(capsys)
    before = everything(archive / "out")
    assert main(command(model, archive, "--overwrite")) == 2
    assert "has no run.json, so it is not an output of `score`" in last_line(capsys)
    assert everything(archive / "out") == before


def test_files_of_others_in_the_output_folder_are_left_alone(model, archive):
    own = {"tmp/notes.txt": "mine", "report.tmp": "mine", "photos/scores/a.txt": "mine"}
    for name, text in own.items():
        (archive / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (archive / "out" / name).write_text(text)
    assert main(command(model, archive)) == 0
    assert main(command(model, archive, "--epsilon=0", "--overwrite")) == 0
    assert {name: (archive / "out" / name).read_text() for name in own} == own


def test_metrics_of_an_earlier_run_do_not_outlive_their_source(model, archive, capsys):
    main(command(model, archive))
    capsys.readouterr()
    assert main(["score", f"--model={model}", f"--output={archive}/out", f"--input={archive}/new-*"]) == 0
    assert "against" not in capsys.readouterr().out
    assert not (archive / "out/metrics.json").exists()


@pytest.mark.parametrize("moment", ["before its shards are read", "while it scores"])
def test_an_output_is_the_run_s_that_was_launched_on_it_last(model, archive, monkeypatch, capsys, moment):
    output, others = (
        archive / "out",
        ["score", f"--model={model}", f"--output={archive}/out", f"--input={archive}/new-*"],
    )
    codes, left = [], []

    def others_meanwhile():
        if not codes:
            codes.append(None)
            codes[0] = main(others)
            left.append(results())

    def results():
        return {path: path.read_bytes() for path in output.glob("*.*")}

    module, name = (scoring_run, "scored_shards") if moment.startswith("before") else (score_shards, "score_shard")
    original = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *given: (others_meanwhile(), original(*given))[1])
    assert main(command(model, archive)) == 1
    assert f"another run, with other inputs, has since started in {output}" in last_line(capsys)
    assert codes == [0]
    assert left == [results()]
    assert read(output, "summary.json")["sources"].keys() == {"input"}

    monkeypatch.undo()
    assert main(command(model, archive)) == 0
    assert len(rows(output)) == 90
    assert read(output, "summary.json")["orphaned_scores"] == []


def test_a_summary_that_the_next_run_has_removed_is_one_line(model, archive, monkeypatch, capsys):
    run = scoring_run.run

    def removed(*given):
        run(*given)
        (archive / "out/summary.json").unlink()

    monkeypatch.setattr(scoring_run, "run", removed)
    assert main(command(model, archive)) == 1
    assert f"another run has since started in {archive}/out and removed its summary; then run" in last_line(capsys)


def test_an_output_that_cannot_be_written_stops_the_run_with_one_line(model, archive, capsys):
    (archive / "file").write_text("in the way")
    assert main([*command(model, archive), f"--output={archive}/file/out"]) == 1
    assert f"cannot write {archive}/file/out" in last_line(capsys)


def test_an_output_that_fails_during_the_run_stops_it_with_one_line_and_the_rerun_resumes(
    model, archive, monkeypatch, capsys
):
    publish, done = writing.publish, []

    def full(temporary, final):
        if "/scores/" in final and len(done) == 2:
            raise errors.StorageError(f"cannot write {final}: No space left on device")
        publish(temporary, final)
        done.extend([final] if "/scores/" in final else [])

    monkeypatch.setattr(writing, "publish", full)
    assert main(command(model, archive)) == 1
    line = last_line(capsys)
    assert "No space left on device" in line
    assert "run the same command again" in line
    assert len(line) < 400
    monkeypatch.setattr(writing, "publish", publish)
    scored = counted_shards(monkeypatch)
    assert main(command(model, archive)) == 0
    assert len(scored) == 4


def test_ctrl_c_is_one_line_and_leaves_nothing_half_written(model, archive, monkeypatch, capsys):
    write = scores_file.ScoresWriter.write

    def interrupted(self, *rest):
        write(self, *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(scores_file.ScoresWriter, "write", interrupted)
    assert main(command(model, archive)) == 130
    said = last_line(capsys)
    assert said == f"odin-beam score: interrupted; to go on: odin-beam {shlex.join(command(model, archive))}"
    assert not list((archive / "out").rglob(f"{writing.TEMPORARY}/*"))
    monkeypatch.setattr(scores_file.ScoresWriter, "write", write)
    assert main(command(model, archive)) == 0


# --- records that give no score ------------------------------------------------------------------------------------


def rejects_of(model, tmp_path, payloads, *more, expected=3, mangle=None):
    """Exit code, rejects and number of scored rows of a run over one shard."""
    path = samples.write_shard(tmp_path / "bad.tfrecord", payloads)
    if mangle:
        path.write_bytes(mangle(path.read_bytes()))
    code = main(["score", f"--model={model}", f"--output={tmp_path}/out", f"--input={path}", *more])
    summary = read(tmp_path / "out", "summary.json")
    assert summary["scored"] + summary["rejected"] == summary["framed"]
    assert code == expected
    rejected = rows(tmp_path / "out", "rejects") if summary["rejected"] else []
    assert len(rejected) == summary["rejected"]
    return rejected, summary["scored"]


def huge_png(side=60_000):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


GOOD = samples.examples(samples.random_images(4))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (samples.example(label=3), "no_image"),
        (samples.example(image=b"not an image"), "undecodable"),
        (samples.example(image=samples.encoded(samples.random_images(1)[0])[:60]), "undecodable"),
        (samples.example(image=huge_png()), "too_many_pixels"),
        (b"\xff\xfe\xfd not protobuf", "not_an_example"),
    ],
)
def test_a_bad_record_is_one_reject_and_the_shard_goes_on(model, tmp_path, bad, reason):
    rejected, scored = rejects_of(model, tmp_path, [*GOOD, bad, *GOOD])
    assert [(row["index"], row["reason"]) for row in rejected] == [(4, reason)]
    assert scored == 8
    assert rejected[0]["detail"]


def test_a_shard_of_nothing_but_bad_records_is_committed(model, tmp_path):
    rejected, scored = rejects_of(model, tmp_path, [samples.example(image=b"x")] * 3)
    assert [row["reason"] for row in rejected] == ["undecodable"] * 3
    assert scored == 0


def byte_flipper(position):
    def mangle(data):
        return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]

    return mangle


RECORD = len(framing.frame(GOOD[0]))


@pytest.mark.parametrize(
    ("mangle", "reason", "scored"),
    [
        (byte_flipper(RECORD + 40), "bad_payload_checksum", 3),
        (byte_flipper(RECORD + 1), "bad_length_checksum", 1),
        (lambda data: data[:-5], "truncated_shard", 3),
        (
            lambda data: data + struct.pack("<QI", 2**60, framing.masked_crc32c(struct.pack("<Q", 2**60))),
            "truncated",
            4,
        ),
    ],
)
def test_a_damaged_shard_gives_what_is_whole_and_one_reject(model, tmp_path, mangle, reason, scored):
    assert len({len(payload) for payload in GOOD[:2]}) == 1
    rejected, count = rejects_of(model, tmp_path, GOOD, mangle=mangle)
    assert len(rejected) == 1
    assert reason in rejected[0]["reason"] or "declares" in rejected[0]["detail"]
    assert count == scored


def test_an_image_for_which_the_classifier_gives_nan_is_a_reject(tmp_path):
    inputs = keras.Input((8, 8, 3))
    # 0 / 0 for an all-white image, and for no other.
    white = keras.ops.subtract(1.0, keras.ops.mean(inputs, axis=(1, 2, 3), keepdims=True))
    x = keras.layers.Flatten()(keras.ops.divide(keras.ops.subtract(1.0, inputs), white))
    model = samples.save_model(keras.Model(inputs, keras.layers.Dense(3)(x)), tmp_path / "nan.keras")
    white_image = samples.examples(np.full((1, 8, 8, 3), 255, np.uint8))
    rejected, scored = rejects_of(model, tmp_path, [*GOOD, *white_image, *GOOD])
    assert [(row["index"], row["reason"]) for row in rejected] == [(4, "non_finite_logits")]
    assert scored == 8


def test_max_rejected_decides_over_the_exit_code(model, tmp_path, capsys):
    bad = samples.example(image=b"x")
    rejected, scored = rejects_of(model, tmp_path, [*GOOD, bad], "--max_rejected=0.2", expected=0)
    assert (len(rejected), scored) == (1, 4)
    main(["score", f"--model={model}", f"--output={tmp_path}/out", f"--input={tmp_path}/bad.tfrecord"])
    assert "20.00% of the records were rejected" in capsys.readouterr().out


def test_a_shard_that_vanishes_fails_alone_and_a_rerun_tries_it_again(model, archive, monkeypatch, capsys):
    original, content = score_shards.score_shard, (archive / "in-1.tfrecord").read_bytes()
    stat = (archive / "in-1.tfrecord").stat()

    def vanishing(shard, *rest):
        if shard.path.endswith("in-1.tfrecord"):
            (archive / "in-1.tfrecord").unlink(missing_ok=True)
        return original(shard, *rest)

    monkeypatch.setattr(score_shards, "score_shard", vanishing)
    assert main(command(model, archive)) == 3
    assert "1 shard failed" in capsys.readouterr().out
    summary = read(archive / "out", "summary.json")
    assert not summary["complete"]
    assert [Path(shard["path"]).name for shard in summary["failed_shards"]] == ["in-1.tfrecord"]
    assert len(rows(archive / "out")) == 70

    monkeypatch.setattr(score_shards, "score_shard", original)
    (archive / "in-1.tfrecord").write_bytes(content)
    os.utime(archive / "in-1.tfrecord", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert main(command(model, archive)) == 0
    assert len(rows(archive / "out")) == 90


def test_a_shard_replaced_between_listing_and_reading_is_not_committed(model, archive, monkeypatch):
    original = score_shards.score_shard

    def replacing(shard, *rest):
        if shard.path.endswith("in-1.tfrecord"):
            samples.write_shard(shard.path, GOOD)
        return original(shard, *rest)

    monkeypatch.setattr(score_shards, "score_shard", replacing)
    assert main(command(model, archive)) == 3
    assert "has changed since it was listed" in read(archive / "out", "summary.json")["failed_shards"][0]["reason"]


# --- other sources than TFRecord -----------------------------------------------------------------------------------


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
def test_the_crop_and_resize_variants_of_the_paper_are_one_flag_away(model, tmp_path, flags, resize, crop):
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


def test_a_loose_file_that_is_no_image_or_went_away_is_one_reject(model, pictures):
    (pictures / "photos/a/notes.png").write_bytes(bytes(8 * 8 * 3))
    uris = [f"photos/a/{name}.png" for name in ("0", "2", "notes", "gone", "4")]
    (pictures / "m.csv").write_text("\n".join(["uri", *uris]))
    command = ["score", f"--model={model}", f"--output={pictures}/out", f"--input=manifest:{pictures}/m.csv"]
    assert main(command) == 3
    assert len(rows(pictures / "out")) == 3
    rejects = rows(pictures / "out", "rejects")
    assert [(r["index"], r["reason"]) for r in rejects] == [(2, "undecodable"), (3, "not_found")]
    assert rejects[1]["id"] == f"{pictures}/photos/a/gone.png"


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
    features = {"photo": tfds.features.Image(shape=(8, 8, 3)), "breed": tfds.features.ClassLabel(num_classes=4)}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny",
        version="1.0.0",
        data_dir=tmp_path / "tfds",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"test": [(i, {"photo": image, "breed": i % 4}) for i, image in enumerate(images)]},
        disable_shuffling=True,
    )
    sources = ["--in_distribution=tfds:tiny/test", f"--tfds_data_dir={tmp_path}/tfds"]
    assert main(["score", f"--model={model}", f"--output={tmp_path}/out", *sources]) == 0
    scored = rows(tmp_path / "out")
    assert [(row["source"], row["id"], row["label"]) for row in scored] == [
        ("tiny", f"tiny-test.tfrecord-00000-of-00001__{i}", i % 4) for i in range(6)
    ]
    scorer = Scorer(ScoreSettings(model, ""))
    expected = scorer.score(images.astype(np.float32) / np.float32(255)).scored.columns["odin_logit"]
    np.testing.assert_allclose([row["odin_logit"] for row in scored], expected, rtol=1e-5)


# --- usage errors --------------------------------------------------------------------------------------------------


def heads():
    inputs = keras.Input((8, 8, 3))
    flat = keras.layers.Flatten()(inputs)
    return {
        "vector.keras": keras.Sequential([keras.Input((7,)), keras.layers.Dense(3)]),
        "one.keras": keras.Model(inputs, keras.layers.Dense(1)(flat)),
        "map.keras": keras.Model(inputs, keras.layers.Conv2D(4, 1)(inputs)),
    }


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--input={d}/none-*.tfrecord"], "matches no file"),
        (["--input=2bad={d}/in-*.tfrecord"], "a NAME begins with a letter"),
        (["--input=known={d}/new-*.tfrecord"], "'known' is given as in_distribution and as input"),
        (["--input=x="], "has no pattern"),
        (["--image_feature=picture"], "no feature 'picture'; features there: image, label"),
        (["--temperature=0"], "temperature must be a number above 0"),
        (["--temperature=nan"], "temperature must be a number above 0"),
        (["--epsilon=-0.1"], "epsilon must be a number of at least 0"),
        (["--epsilon=nan"], "epsilon must be a number of at least 0"),
        (["--epsilon=much"], "'much' is not a number"),
        (["--temprature=10"], "unknown flag --temprature; did you mean --temperature?"),
        (["--temp=10"], "unknown flag --temp; did you mean --temperature?"),
        (["--batch_size=abc"], "'abc' is not a whole number"),
        (["--image_size=a,b"], "'a' is not a whole number"),
        (["--mean=a,b", "--std=1,1,1"], "'a' is not a number"),
        (["--max_rejected=most"], "'most' is not a number"),
        (["--output={d}/in-0.tfrecord"], "in-0.tfrecord is a file: give a folder"),
        (["--output={d}/o*t"], "must not hold *, ? or ["),
        (["--input={d}"], "is a folder: give a pattern of the files in it, such as"),
        (["stray"], "unknown argument stray"),
        (["--model={d}/gone.keras"], "gone.keras"),
        (["--model={d}/in-0.tfrecord"], "its name must end in .keras"),
        (["--model={d}/garbage.keras"], "cannot be loaded"),
        (["--model={d}/garbage.h5"], "cannot be loaded"),
        (["--model={d}/vector.keras"], "images need one of shape"),
        (["--model={d}/one.keras"], "2 or more classes"),
        (["--model={d}/map.keras"], "2 or more classes"),
        (["--preprocessing=imagenet"], "preprocessing is one of unit, byte, tf, torch, caffe"),
        (["--mean=0.5,0.5,0.5"], "--mean and --std go together"),
        (["--mean=0.5", "--std=0.5"], "preprocessing mean_std is for 1 channels"),
        (["--preprocessing=tf", "--mean=0.5", "--std=0.5"], "not both"),
        (["--mean=0.5,0.5,0.5", "--std=1,0,1"], "std above 0"),
        (["--image_size=16,16"], "contradicts the model's input"),
        (["--resize=squash"], "resize is one of stretch, shorter_side, none"),
        (["--resize=shorter_side"], "needs crop center"),
        (["--detectors=odin,oden"], "not oden"),
        (["--batch_size=0"], "must be at least 1"),
        (["--max_rejected=2"], "must be between 0 and 1"),
        (["--overwrite=maybe"], "neither true nor false"),
        (["--input=pictures={d}/picture-*.png"], "looks like a PNG image; `odin-beam ingest`"),
        (["--input=files:{d}/new-*"], "that are not a readable PNG, JPEG, GIF or BMP"),
        (["--input=manifest:{d}/absent.csv"], "absent.csv: No such file"),
        (["--input=manifest:{d}/list.csv"], "gone.png: No such file or directory; the first images listed are not"),
        (["--input=noise:pink"], "the kinds of noise are gaussian and uniform"),
        (["--input=tfds:huge/test", "--tfds_data_dir={d}"], "run `tfds build huge --data_dir"),
    ],
)
def test_a_usage_error_is_one_line_exit_code_2_and_nothing_written(model, archive, capsys, flags, message):
    for name, bad in heads().items():
        bad.save(archive / name)
    for name in ("garbage.keras", "garbage.h5"):
        (archive / name).write_bytes(b"garbage" * 100)
    (archive / "picture-0.png").write_bytes(samples.encoded(samples.random_images(1)[0]))
    (archive / "list.csv").write_text("uri\ngone.png\n")
    assert main(command(model, archive, *(flag.format(d=archive) for flag in flags))) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (archive / "out").exists()


def test_flags_may_be_spelled_with_dashes_repeated_or_separated_by_commas(model, archive):
    code = main(
        [
            "score",
            "--model",
            model,
            "--output",
            f"{archive}/out",
            f"--in-distribution=a={archive}/in-0*,a={archive}/in-1*",
            f"--in_distribution=b={archive}/in-2*",
            "--detectors=msp",
            "--detectors=odin",
            "--batch-size=16",
            "--antialias=true",
        ]
    )
    assert code == 0
    summary = read(archive / "out", "summary.json")
    assert {name: source["scored"] for name, source in summary["sources"].items()} == {"a": 40, "b": 10}
    assert summary["settings"]["detectors"] == ["msp", "odin"]
    assert summary["settings"]["geometry"]["antialias"] is True


def test_shards_of_one_base_name_in_two_folders_do_not_collide(model, tmp_path):
    for folder in ("a", "b"):
        samples.write_shard(tmp_path / folder / "x.tfrecord", GOOD)
    assert main(["score", f"--model={model}", f"--output={tmp_path}/out", f"--input={tmp_path}/*/x.tfrecord"]) == 0
    assert len(rows(tmp_path / "out")) == 8
    assert len({row["shard"] for row in rows(tmp_path / "out")}) == 2


def test_scores_are_one_schema_in_zstd_and_name_their_settings(model, archive):
    main(command(model, archive))
    files = list((archive / "out").glob("scores/*/*.parquet"))
    assert len({str(pq.read_schema(path).remove_metadata()) for path in files}) == 1
    metadata = pq.read_metadata(files[0])
    assert metadata.row_group(0).column(0).compression == "ZSTD"
    assert json.loads(metadata.metadata[b"odin_beam"])["settings"]["odin"] == {"temperature": 1000.0, "epsilon": 0.0014}


def test_what_stops_a_run_behind_a_job_server_is_said_in_one_line(model, archive, monkeypatch, caplog, capsys):
    def score_shard(*_):
        raise errors.OutputError("the disk is full")

    monkeypatch.setattr(score_shards, "score_shard", score_shard)
    cluster = ("--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK")
    assert main(command(model, archive, *cluster)) == 1
    assert "odin-beam score: stopped: the disk is full; then" in capsys.readouterr().err
    assert "Traceback" not in caplog.text
