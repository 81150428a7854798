"""A run's folder is input too: whatever was done to it ends in one line that names the file, and other shards go on."""

import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from odin_beam.pipeline.main import main
from odin_beam.transforms import errors
from odin_beam.transforms.storage import listing
from odin_beam.transforms.tables import layout, scores_file
from odin_beam.transforms.tables.scores_file import METADATA_KEY
from tests.helpers import samples

JOBS = ("evaluate", "flag", "report", "compare")
COMPARISON = "compare-known+foreign.json"


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """A calibration, and a folder with scores of 3 shards and their flags."""
    folder = tmp_path_factory.mktemp("doctored")
    for name, count, seed in (("in-0", 30, 0), ("in-1", 20, 1), ("out-0", 20, 2)):
        images = samples.random_images(count, seed=seed) // (4 if name == "out-0" else 1)
        samples.write_shard(folder / f"{name}.tfrecord", samples.examples(images, [seed] * count))
    sources = [f"--in_distribution=known={folder}/in-*", f"--out_distribution=foreign={folder}/out-*"]
    grid = ["--temperatures=10", "--epsilons=0", "--objective=auroc", "--check=false"]
    assert main(["tune", f"--model={model}", f"--output={folder}/calibration.json", *sources, *grid]) == 0
    score = ["score", f"--model={model}", f"--calibration={folder}/calibration.json", "--check=false"]
    assert main([*score, f"--output={folder}/out", *sources]) == 0
    assert run(folder, "flag") == 0
    assert run(folder, "compare") == 0
    return folder


@pytest.fixture
def folder(made, tmp_path):
    # Shards are named by full path, which the copy does not change.
    shutil.copytree(made / "out", tmp_path / "out")
    shutil.copy(made / "calibration.json", tmp_path)
    return tmp_path


def run(folder, job):
    more = {
        "flag": [f"--calibration={folder}/calibration.json", "--detector=odin"],
        "compare": ["--reference=known", "--new=foreign"],
    }
    return main([job, f"--scores={folder}/out", *more.get(job, [])])


def scores_of(folder, name="in-1"):
    (path,) = folder.glob(f"out/scores/*/{name}*.parquet")
    return path


def rewritten(change, **said):
    """Doctors a scores file's rows, and what its commit record says, which otherwise stays."""

    def doctor(path):
        metadata = json.loads(pq.read_metadata(path).metadata[METADATA_KEY])
        table = change(pq.read_table(path, partitioning=None))
        with pq.ParquetWriter(path, table.schema) as writer:
            writer.write_table(table, row_group_size=1 << 23)
            writer.add_key_value_metadata({METADATA_KEY: json.dumps(metadata | said)})

    return doctor


def with_column(name, change):
    """Replaces a column by what `change` makes of its values."""

    def changed(table):
        return table.set_column(table.column_names.index(name), name, pa.array(change(table[name].to_pylist())))

    return rewritten(changed)


def with_first(name, value, dtype):
    def changed(table):
        column = pa.array([value, *table[name].to_pylist()[1:]], dtype)
        return table.set_column(table.column_names.index(name), pa.field(name, dtype), column)

    return rewritten(changed)


def replaced(make):
    def doctor(path):
        path.unlink()
        make(path)

    return doctor


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def outside(path):
    other = path.parents[3] / "elsewhere"
    other.write_text("a secret")
    path.symlink_to(other)


def repeated(table):
    return pa.concat_tables([table] * 60_000).combine_chunks()


SCORES = {
    "cut to 5 rows": (rewritten(lambda table: table.slice(0, 5)), "5 rows instead of 20"),
    "cut in the middle": (lambda path: os.truncate(path, path.stat().st_size // 2), ""),
    "empty": (lambda path: os.truncate(path, 0), ""),
    "a pipe": (replaced(os.mkfifo), "not a regular file"),
    "a device": (replaced(lambda path: path.symlink_to("/dev/zero")), "not a regular file"),
    "a folder": (replaced(os.mkdir), "not a regular file"),
    "a link to outside": (replaced(outside), ""),
    "other settings": (rewritten(lambda table: table, fingerprint="f" * 64), "made with other settings"),
    "negative counts": (rewritten(lambda table: table, rejected=-1, framed=19), "-1 rejects"),
    "a flipped bit": (flipped, ""),
    "without a column": (rewritten(lambda table: table.drop_columns(["odin"])), "no column odin"),
    "text for numbers": (with_column("odin", lambda values: [str(v) for v in values]), "has type string"),
    "an infinite score": (with_first("odin", float("inf"), pa.float64()), "odin is not finite"),
    "a score that is NaN": (with_first("odin", float("nan"), pa.float64()), "odin is not finite"),
    "a negative index": (with_first("index", -1, pa.int64()), "indexes are not ascending"),
    "a repeated index": (with_first("index", 1, pa.int64()), "indexes are not ascending"),
    "a negative class": (with_first("prediction", -3, pa.int32()), "prediction is negative"),
    "a null class": (with_first("prediction", None, pa.int32()), "column prediction has 1 nulls"),
    "a million rows at once": (
        rewritten(repeated, scored=1_200_000, framed=1_200_000),
        "a row group of 1,200,000 rows",
    ),
}
# Every job reads scores by one function, so one job sees all of it, and the others a part.
EVERYWHERE = ("cut to 5 rows", "a pipe", "other settings", "an infinite score")


@pytest.mark.parametrize("name", SCORES)
def test_metrics_leave_out_and_name_a_doctored_scores_file(folder, capsys, name):
    doctor, message = SCORES[name]
    path = scores_of(folder)
    doctor(path)
    capsys.readouterr()
    assert run(folder, "evaluate") == 3
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "1 scores file damaged or of other settings, missing from the results:" in printed.out
    metrics = json.loads((folder / "out/metrics.json").read_text())
    assert (metrics["listed_shards"], metrics["scored_shards"]) == (3, 2)
    assert metrics["in_distribution"]["known"]["count"] == 30
    (damaged,) = metrics["damaged_scores"]
    assert str(path) in damaged["reason"]
    assert message in damaged["reason"]


@pytest.mark.parametrize("name", EVERYWHERE)
def test_flags_report_and_compare_leave_it_out_and_name_it(folder, capsys, name):
    doctor, message = SCORES[name]
    path = scores_of(folder)
    doctor(path)
    capsys.readouterr()
    assert run(folder, "flag") == 3
    printed = capsys.readouterr()
    assert f"{path}" in printed.out
    assert message in printed.out
    assert len(list(folder.glob("out/flags/*/*.parquet"))) == 2
    assert json.loads((folder / "out/flags.json").read_text())["sources"]["known"]["images"] == 30
    assert run(folder, "report") == 3
    assert str(path) in capsys.readouterr().out
    assert str(path) in (folder / "out" / layout.REPORT / layout.REPORT_PAGE).read_text()
    data = json.loads((folder / "out/report/data.json").read_text())
    assert sum(row["count"] for row in data["classes"] if row["source"] == "known") == 30
    assert run(folder, "compare") == 3
    assert str(path) in capsys.readouterr().out
    assert json.loads((folder / "out" / COMPARISON).read_text())["reference"]["images"] == 30


def test_no_flipped_byte_of_a_scores_file_gives_other_rows(folder):
    path = scores_of(folder)
    expected = scores_file.read_commit(str(path)).fingerprint
    columns = [name for name in pq.read_schema(path).names if name not in ("shard", "id")]

    def read():
        return pa.concat_tables(scores_file.read_scores(str(path), expected, columns)).to_pylist()

    rows, data, refused = read(), path.read_bytes(), 0
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :])
        try:
            assert read() == rows, f"byte {place}"
        except errors.StorageError:
            refused += 1
    assert refused > 100


def edited(change):
    def doctor(path):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return doctor


def without(*keys):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return edited(change)


def with_value(value, *keys):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return edited(change)


def text(content):
    return lambda path: path.write_bytes(content)


def manifest(change):
    """Doctors the rows of a manifest."""

    def doctor(path):
        table = pq.read_table(path)
        pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), table.schema), path)

    return doctor


def without_role(path):
    pq.write_table(pq.read_table(path).drop_columns(["role"]), path)


FILES = [
    *(
        (name, "evaluate" if name == "run.json" else "report" if name != "calibration.json" else "flag", kind, doctor)
        for name in ("run.json", "summary.json", "metrics.json", "flags.json", "calibration.json", COMPARISON)
        for kind, doctor in {
            "text": text(b"{"),
            "a list": text(b"[]"),
            "no keys": text(b"{}"),
            "not UTF-8": text(b'{"a": "\xff"}'),
            "nested": text(b'{"a":' * 200_000 + b"1" + b"}" * 200_000),
            "not finite": text(b'{"complete": true, "scored": NaN}'),
            "infinite": text(b'{"complete": true, "scored": 1e999}'),
            "huge": text(b'{"a": "' + b"x" * 100_000_000 + b'"}'),
            "a pipe": replaced(os.mkfifo),
            "a folder": replaced(os.mkdir),
        }.items()
        # A folder of such a name is not a comparison.
        if (name, kind) != (COMPARISON, "a folder")
    ),
    ("run.json", "flag", "settings", with_value(3, "settings")),
    ("run.json", "flag", "odin", with_value({"temperature": "hot", "epsilon": 0}, "settings", "odin")),
    ("run.json", "report", "versions", with_value([1], "versions")),
    ("run.json", "report", "geometry", with_value("square", "settings", "geometry")),
    ("summary.json", "report", "count", with_value(-1, "scored")),
    ("summary.json", "report", "failed", with_value(["x"], "failed_shards")),
    ("metrics.json", "report", "pairs", with_value([{}], "pairs")),
    ("metrics.json", "report", "auroc", with_value(7, "pairs", 0, "auroc")),
    ("metrics.json", "report", "threshold", with_value("x", "in_distribution", "known", "threshold_at_95_tpr", "odin")),
    ("flags.json", "evaluate", "rule", with_value({}, "rule")),
    ("flags.json", "evaluate", "sources", with_value({"known": {}}, "sources")),
    ("flags.json", "evaluate", "calibration", without("calibration", "images")),
    (COMPARISON, "report", "verdict", with_value("maybe", "verdict")),
    (COMPARISON, "report", "auroc", with_value("high", "detectors", 0, "auroc", "value")),
    (COMPARISON, "report", "source", without("new", "source")),
    (COMPARISON, "report", "images", with_value("many", "detectors", 0, "images_needed")),
    ("calibration.json", "flag", "sources", with_value([], "sources")),
    ("calibration.json", "flag", "scores", with_value(5, "scores", "odin")),
    ("calibration.json", "flag", "steps", with_value([2.0, 1.0], "scores", "odin", "steps")),
    *(
        ("manifest.parquet", job, kind, manifest(change))
        for job in JOBS
        for kind, change in {
            "listed twice": lambda rows: [*rows, rows[0]],
            "out of the folder": lambda rows: [rows[0] | {"output_name": "../../../x.parquet"}, *rows[1:]],
            "an unknown content": lambda rows: [rows[0] | {"content": '{"content": "Evil"}'}, *rows[1:]],
            "content that is a list": lambda rows: [rows[0] | {"content": "[1]"}, *rows[1:]],
        }.items()
    ),
    ("manifest.parquet", "evaluate", "a pipe", replaced(os.mkfifo)),
    (
        "manifest.parquet",
        "evaluate",
        "a column less",
        lambda path: pq.write_table(pq.read_table(path).drop_columns(["role"]), path),
    ),
]


@pytest.mark.parametrize(("name", "job", "doctor"), [pytest.param(n, j, d, id=f"{n}-{k}-{j}") for n, j, k, d in FILES])
def test_any_other_doctored_file_is_one_line_that_names_it(folder, capsys, name, job, doctor):
    path = folder / name if name == "calibration.json" else folder / "out" / name
    doctor(path)
    capsys.readouterr()
    assert run(folder, job) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert str(path) in printed.err
    assert len(printed.err) < 600


def test_paths_that_lead_out_of_the_folder_are_not_followed(folder, tmp_path):
    """Flags replace what is in their folder; a folder that is a link stays as it is, and so does what it leads to."""
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "mine.txt").write_text("mine")
    shutil.rmtree(folder / "out/flags")
    (folder / "out/flags").symlink_to(kept)
    assert run(folder, "flag") == 1
    assert [path.name for path in kept.iterdir()] == ["mine.txt"]
    assert listing.stat_file(str(kept / "mine.txt")) is not None
