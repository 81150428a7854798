"""`odin-beam evaluate`: the metrics again, from Parquet alone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from odin_beam.pipeline.main import main
from tests.helpers import samples

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    for name, seed in (("in-0", 0), ("in-1", 1), ("out-0", 2)):
        images = samples.random_images(20, seed=seed)
        samples.write_shard(folder / f"{name}.tfrecord", samples.examples(images, [seed] * 20))
    sources = [f"--in_distribution=known={folder}/in-*", f"--out_distribution=foreign={folder}/out-*"]
    assert main(["score", f"--model={model}", f"--output={folder}/scores", *sources]) == 0
    return folder / "scores"


@pytest.fixture
def output(made, tmp_path):
    # Shards are named by full path, which the copy does not change.
    return Path(shutil.copytree(made, tmp_path / "scores"))


def test_it_gives_what_score_gave_without_importing_tensorflow(output):
    metrics, summary = (output / "metrics.json").read_text(), (output / "summary.json").read_text()
    (output / "metrics.json").unlink()
    script = f"""
import sys
from odin_beam.pipeline.main import main
code = main(["evaluate", "--scores={output}"])
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "known (40) against foreign (20)" in done.stdout
    assert (output / "metrics.json").read_text() == metrics
    assert (output / "summary.json").read_text() == summary


def test_shards_that_are_not_scored_yet_are_left_out_and_said(output, capsys):
    next((output / "scores/source=known").glob("in-1*")).unlink()
    assert main(["evaluate", f"--scores={output}"]) == 3
    assert "1 of 3 shards are not scored yet" in capsys.readouterr().out
    metrics = json.loads((output / "metrics.json").read_text())
    assert (metrics["listed_shards"], metrics["scored_shards"]) == (3, 2)
    assert metrics["in_distribution"]["known"]["count"] == 20


def test_a_scores_file_that_does_not_belong_to_the_run_does_not_enter(output):
    stray = next((output / "scores/source=known").glob("in-1*"))
    stray.with_name("stray.parquet").write_bytes(stray.read_bytes())
    before = (output / "metrics.json").read_text()
    assert main(["evaluate", f"--scores={output}"]) == 0
    assert (output / "metrics.json").read_text() == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", None, "is not an output folder of `score`"),
        ("run.json", b"{", "is damaged"),
        ("run.json", b"[]", "is damaged"),
        ("manifest.parquet", None, "is not an output folder of `score`"),
        ("manifest.parquet", b"PAR1 garbage", "is not an output folder of `score`"),
    ],
)
def test_a_folder_that_it_cannot_use_is_a_usage_error(output, capsys, name, content, message):
    if content is None:
        (output / name).unlink()
    else:
        (output / name).write_bytes(content)
    assert main(["evaluate", f"--scores={output}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_scores_without_in_distribution_source_have_no_metrics(model, tmp_path, capsys):
    samples.write_shard(tmp_path / "a.tfrecord", samples.examples(samples.random_images(3)))
    main(["score", f"--model={model}", f"--output={tmp_path}/out", f"--input={tmp_path}/a.tfrecord"])
    assert main(["evaluate", f"--scores={tmp_path}/out"]) == 2
    assert "no in-distribution source" in capsys.readouterr().err


def test_metrics_are_averaged_over_near_and_far_sources(model, tmp_path, capsys):
    for name, seed in (("in", 0), ("a", 1), ("b", 2), ("c", 3)):
        samples.write_shard(tmp_path / f"{name}-0.tfrecord", samples.examples(samples.random_images(20, seed=seed)))
    outside = [f"--out_distribution={name}={tmp_path}/{name}-*" for name in "abc"]
    argv = ["score", f"--model={model}", f"--output={tmp_path}/scores", f"--in_distribution=known={tmp_path}/in-*"]
    assert main([*argv, *outside, "--out_distribution=noise:uniform", "--noise_count=20", "--near=a,b"]) == 0
    printed = capsys.readouterr().out
    assert "known against near, mean over a, b, percent:" in printed
    assert "against far" not in printed

    assert main(["evaluate", f"--scores={tmp_path}/scores", "--near=a,b", "--far=c"]) == 0
    metrics = json.loads((tmp_path / "scores/metrics.json").read_text())
    auroc = {row["out_distribution"]: row["auroc"] for row in metrics["pairs"] if row["detector"] == "gen"}
    means = {row["group"]: row["auroc"] for row in metrics["groups"] if row["detector"] == "gen"}
    assert means == pytest.approx({"near": (auroc["a"] + auroc["b"]) / 2, "far": auroc["c"]})
    assert main(["report", f"--scores={tmp_path}/scores"]) == 0
    assert "known against near: mean over a, b, percent" in (tmp_path / "scores/report/report.html").read_text()

    for flags, message in (
        (["--near=x"], "--near x: not an out-of-distribution source; there are a, b, c, uniform"),
        (["--near=a", "--far=b,a"], "a is in both --near and --far"),
        (["--far=uniform"], "noise is a sanity check"),
        (["--near=known"], "--near known: not an out-of-distribution source"),
    ):
        capsys.readouterr()
        assert main(["evaluate", f"--scores={tmp_path}/scores", *flags]) == 2
        assert message in capsys.readouterr().err
