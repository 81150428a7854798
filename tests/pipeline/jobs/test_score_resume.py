"""`odin-beam score` on an output that is there already: what it does again, leaves alone and refuses."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from odin_beam.pipeline.launch import scoring_run
from odin_beam.pipeline.main import main
from odin_beam.transforms import errors
from odin_beam.transforms.detectors.registry import FIRST_DETECTORS
from odin_beam.transforms.scoring import score_shards
from odin_beam.transforms.scoring import scorer as scorer_module
from odin_beam.transforms.storage import writing
from odin_beam.transforms.tables import scores_file
from tests.helpers import samples
from tests.helpers.score_runs import GOOD, command, counted_shards, everything, last_line, read, rows


@pytest.mark.usefixtures("scored")
def test_killed_and_rerun_gives_what_an_undisturbed_run_gives(model, archive, monkeypatch):
    output = archive / "out"
    output.rename(archive / "whole")
    argv = [sys.executable, "-m", "tests.helpers.stalling_score", *command(model, archive, "--batch_size=8")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(argv, cwd=samples.ROOT, **pipes) as process:
        assert "stalled\n" in iter(process.stdout.readline, "")
        process.kill()
    finished = {path: path.stat().st_mtime_ns for path in output.glob("scores/*/*.parquet")}
    assert len(finished) == 3
    assert list((output / writing.TEMPORARY).iterdir())
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


@pytest.mark.usefixtures("scored")
def test_a_finished_run_is_not_scored_again_nor_its_model_loaded(model, archive, monkeypatch):
    monkeypatch.setattr(scorer_module, "load_classifier", lambda *_: pytest.fail("the model was loaded"))
    before = rows(archive / "out")
    assert main(command(model, archive)) == 0
    assert rows(archive / "out") == before


@pytest.mark.usefixtures("scored")
def test_a_replaced_shard_is_scored_again_a_removed_one_orphaned(model, archive, monkeypatch, capsys):
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


@pytest.mark.usefixtures("scored")
def test_an_output_of_other_settings_is_refused_or_overwritten(model, archive, capsys):
    before = everything(archive / "out")
    assert main(command(model, archive, "--epsilon=0.002")) == 2
    assert "odin.epsilon was 0.0014, is 0.002" in last_line(capsys)
    assert everything(archive / "out") == before
    assert main(["compare", f"--scores={archive}/out", "--reference=known", "--new=foreign"]) == 0
    assert (archive / "out/compare-known+foreign.json").exists()
    assert main(command(model, archive, "--epsilon=0.002", "--overwrite")) == 0
    assert read(archive / "out", "run.json")["settings"]["odin"]["epsilon"] == 0.002
    assert not (archive / "out/compare-known+foreign.json").exists()


@pytest.mark.usefixtures("scored")
def test_scores_of_unknown_origin_are_not_mixed_in(model, archive, capsys):
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


@pytest.mark.usefixtures("scored")
def test_metrics_of_an_earlier_run_do_not_outlive_their_source(model, archive, capsys):
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
    message = f"another run has since started in {archive}/out and removed its summary; to resume, run"
    assert message in last_line(capsys)


def test_a_run_whose_output_fails_stops_and_a_rerun_resumes(model, archive, monkeypatch, capsys):
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


def test_a_shard_that_vanishes_fails_alone_and_is_tried_again(model, archive, monkeypatch, capsys):
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


def test_a_shard_replaced_after_the_listing_is_not_committed(model, archive, monkeypatch):
    original = score_shards.score_shard

    def replacing(shard, *rest):
        if shard.path.endswith("in-1.tfrecord"):
            samples.write_shard(shard.path, GOOD)
        return original(shard, *rest)

    monkeypatch.setattr(score_shards, "score_shard", replacing)
    assert main(command(model, archive)) == 3
    assert "has changed since it was listed" in read(archive / "out", "summary.json")["failed_shards"][0]["reason"]


@pytest.mark.parametrize("sources", ["the same inputs", "other inputs"])
def test_an_output_that_is_overwritten_meanwhile_is_not_mixed(model, archive, monkeypatch, capsys, sources):
    """Another run with other settings takes the folder while a shard is being scored."""
    others = command(model, archive) if sources == "the same inputs" else command(model, archive)[:-1]
    codes, score_shard = [], score_shards.score_shard

    def overwritten(*given):
        if not codes:
            codes.append(None)
            codes[0] = main([*others, "--temperature=10", "--overwrite"])
        return score_shard(*given)

    monkeypatch.setattr(score_shards, "score_shard", overwritten)
    assert main(command(model, archive)) == 1
    assert f"stopped: another run, with other settings, has since started in {archive}/out" in last_line(capsys)
    assert codes == [0]
    settings = {pq.read_metadata(path).metadata[b"odin_beam"] for path in (archive / "out").glob("scores/*/*.parquet")}
    assert {json.loads(one)["settings"]["odin"]["temperature"] for one in settings} == {10.0}
    assert read(archive / "out", "summary.json")["complete"]
    assert main(["evaluate", f"--scores={archive}/out"]) == 0


def test_a_folder_claimed_by_others_during_the_launch_is_refused(model, archive, monkeypatch, capsys):
    """Both runs saw an empty folder; the other one was faster."""
    launch, codes = scoring_run.launch, []

    def overtaken(scoring):
        if not codes:
            codes.append(None)
            codes[0] = main(command(model, archive, "--temperature=10"))
        launch(scoring)

    monkeypatch.setattr(scoring_run, "launch", overtaken)
    assert main(command(model, archive)) == 2
    assert "was made with other settings: odin.temperature was 10.0, is 1000.0" in last_line(capsys)
    assert codes == [0]
    assert main(["evaluate", f"--scores={archive}/out"]) == 0


def test_a_run_of_an_earlier_version_goes_on_with_the_detectors_of_its_time(model, archive, monkeypatch, capsys):
    first = ",".join(FIRST_DETECTORS)
    assert main(command(model, archive, f"--detectors={first}")) == 0
    next((archive / "out/scores/source=known").glob("*.parquet")).unlink()
    scored = counted_shards(monkeypatch)
    capsys.readouterr()
    assert main(command(model, archive)) == 0
    assert "continuing without scale, ash_b, which an earlier version began" in capsys.readouterr().err
    assert len(scored) == 1
    assert main(command(model, archive, "--detectors=odin,msp")) == 2
