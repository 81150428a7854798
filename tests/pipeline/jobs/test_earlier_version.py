"""A folder that an earlier version began: its files lack `uri` and `class_name`, and the run goes on."""

import json
import shutil

import pyarrow.parquet as pq
import pytest

from odin_beam.pipeline.main import main
from odin_beam.transforms.scoring.settings import names_digest
from odin_beam.transforms.tables.schemas import REJECT_SCHEMA, SCORE_SCHEMA
from tests.helpers import samples
from tests.helpers.score_runs import command, counted_shards, last_line, read

LATER = ("id", "uri", "class_name")
NAMES = "cat\ndog\nowl\nfox\n"
MORE = ("--max_rejected=1", "--check=false")


def as_before(folder):
    """Takes from every table of the source `known` what earlier versions did not write."""
    for table in ("scores", "features", "rejects"):
        for path in (folder / table / "source=known").glob("*.parquet"):
            rows = pq.ParquetFile(path).read()
            absent = [name for name in LATER if name in rows.column_names and (name != "id" or table == "features")]
            pq.write_table(rows.drop_columns(absent), path)


@pytest.fixture(scope="module")
def begun(model, archive_folder, tmp_path_factory):
    """The archive, one of its records broken, with a run of it in `out` whose files are in part of before."""
    folder, copy = archive_folder
    home = tmp_path_factory.mktemp("before") / "archive"
    shutil.copytree(copy, folder, dirs_exist_ok=True)
    shard = folder / "in-2.tfrecord"
    shard.write_bytes(shard.read_bytes() + samples.write_shard(folder / "x", [samples.example(image=b"")]).read_bytes())
    (folder / "x").unlink()
    shutil.rmtree(folder / "out", ignore_errors=True)
    assert main(command(model, folder, "--features=float32", *MORE)) == 0
    as_before(folder / "out")
    fit = ["fit", f"--model={model}", f"--in_distribution=known={folder}/in-*.tfrecord", "--bank=40"]
    assert main([*fit, f"--output={folder}/r.npz", *MORE]) == 0
    return shutil.copytree(folder, home)


@pytest.fixture
def archive(begun, archive_folder):
    folder, _ = archive_folder
    shutil.rmtree(folder)
    return shutil.copytree(begun, folder)


def uris(archive, table="scores", source="known"):
    """Of one source's rows, read file by file: files of before lack the column."""
    found = []
    for path in sorted((archive / "out" / table / f"source={source}").glob("*.parquet")):
        rows = pq.ParquetFile(path).read()
        found += rows["uri"].to_pylist() if "uri" in rows.column_names else [None] * rows.num_rows
    return found


def test_a_resumed_run_mixes_files_and_all_jobs_read_them(model, archive, monkeypatch):
    metrics = read(archive / "out", "metrics.json")
    lost = next((archive / "out/scores/source=known").glob("in-0*"))
    lost.unlink()
    again = counted_shards(monkeypatch)
    assert main(command(model, archive, "--features=float32", *MORE)) == 0
    assert again == ["in-0.tfrecord"]
    assert uris(archive) == [f"{archive}/in-0.tfrecord#{i}" for i in range(20)] + [None] * 30
    assert main(["evaluate", f"--scores={archive}/out"]) == 0
    assert read(archive / "out", "metrics.json") == metrics
    assert main(["report", f"--scores={archive}/out"]) == 0
    samples.write_calibration(archive / "cal.json", model)
    content = json.loads((archive / "cal.json").read_text())
    content["settings"]["model_digest"] = read(archive / "out", "run.json")["settings"]["model_digest"]
    (archive / "cal.json").write_text(json.dumps(content))
    assert main(["flag", f"--scores={archive}/out", f"--calibration={archive}/cal.json", "--detector=msp"]) == 0
    assert uris(archive, "flags") == uris(archive)


def test_features_of_before_give_scores_with_nulls(archive):
    argv = [f"--from_features={archive}/out", f"--reference={archive}/r.npz", f"--output={archive}/again"]
    assert main(["score", *argv, "--max_rejected=1"]) == 0
    for table, schema in (("scores", SCORE_SCHEMA), ("rejects", REJECT_SCHEMA)):
        for path in (archive / "again" / table / "source=known").glob("*.parquet"):
            rows = pq.ParquetFile(path).read()
            assert rows.schema.equals(schema)
            assert rows["uri"].null_count == rows.num_rows > 0
    (path,) = (archive / "again/scores/source=input").glob("*.parquet")
    assert pq.ParquetFile(path).read()["uri"].to_pylist() == [f"{archive}/new-0.tfrecord#{i}" for i in range(10)]


def test_a_run_without_names_goes_on_without_unless_they_are_asked_for(model, archive, capsys):
    (archive / "labels.txt").write_text(NAMES)
    assert main(command(model, archive, "--features=float32", *MORE)) == 0
    assert "continuing without class names, as this run began: --overwrite" in capsys.readouterr().err
    assert main(command(model, archive, "--features=float32", f"--class_names={archive}/labels.txt", *MORE)) == 2
    assert "class_names_digest was null" in last_line(capsys)
    assert main(command(model, archive, "--features=float32", "--overwrite", *MORE)) == 0
    launch = read(archive / "out", "run.json")
    assert launch["class_names"] == NAMES.split()
    assert launch["settings"]["class_names_digest"] == names_digest(NAMES.split())


def test_a_run_goes_on_with_the_names_that_it_began_with(model, archive, monkeypatch, capsys):
    (archive / "labels.txt").write_text(NAMES)
    assert main(command(model, archive, "--overwrite", *MORE)) == 0
    (archive / "labels.txt").write_text("a\nb\nc\nd\n")
    next((archive / "out/scores/source=known").glob("in-0*")).unlink()
    again = counted_shards(monkeypatch)
    assert main(command(model, archive, *MORE)) == 0
    assert again == ["in-0.tfrecord"]
    for path in (archive / "out/scores/source=known").glob("*.parquet"):
        assert set(pq.ParquetFile(path).read()["class_name"].to_pylist()) <= set(NAMES.split())
    run = archive / "out" / "run.json"
    run.write_text(run.read_text().replace('"owl"', '"elf"'))
    assert main(command(model, archive, *MORE)) == 2
    assert "its class names are not those of its settings" in last_line(capsys)


def test_names_that_do_not_fit_write_nothing(model, archive, capsys):
    shutil.rmtree(archive / "out")
    (archive / "names.txt").write_text("cat\ndog\n")
    assert main(command(model, archive, f"--class_names={archive}/names.txt", *MORE)) == 2
    assert f"--class_names {archive}/names.txt has 2 names, the model has 4 classes" in last_line(capsys)
    assert not (archive / "out").exists()
