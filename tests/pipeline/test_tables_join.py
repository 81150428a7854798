"""The tables of a run, as pandas, Polars and DuckDB read them: their types, their joins, and what the docs show."""

import re

import duckdb
import pandas
import polars
import pyarrow as pa
import pyarrow.dataset
import pytest

from odin_beam.pipeline.main import main
from odin_beam.transforms.tables import schemas
from tests.helpers import samples
from tests.helpers.score_runs import read

TABLES = ("scores", "flags", "rejects", "features")
DOCS = ("README.md", "docs/output.md")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder in which `scores` is a run on shards, one with a broken record, loose files and noise, with flags."""
    folder = tmp_path_factory.mktemp("join")
    model = samples.save_model(samples.small_model(), folder / "small.keras")
    for name, seed in (("in-0", 1), ("in-1", 2)):
        payloads = samples.examples(samples.random_images(10, seed=seed), [0, 1] * 5)
        samples.write_shard(folder / f"{name}.tfrecord", [samples.example(image=b"none"), *payloads])
    for i, image in enumerate(samples.random_images(5, seed=3)):
        path = folder / f"photos/{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(samples.encoded(image))
    (folder / "photos/broken.png").write_bytes(b"broken")
    (folder / "names.txt").write_text("cat\ndog\nowl\nfox\n")
    sources = [f"--in_distribution=known={folder}/in-*.tfrecord", "--out_distribution=noise:uniform"]
    sources += [f"--input=photos=files:{folder}/photos", "--noise_count=4"]
    more = [f"--class_names={folder}/names.txt", "--features=float32", "--check=false", "--max_rejected=1"]
    assert main(["score", f"--model={model}", f"--output={folder}/scores", *sources, *more]) == 0
    for name, seed in (("validation", 4), ("foreign", 5)):
        samples.write_shard(folder / f"{name}.tfrecord", samples.examples(samples.random_images(200, seed=seed)))
    calibration = [f"--in_distribution={folder}/validation.tfrecord", f"--out_distribution={folder}/foreign.tfrecord"]
    grid = ["--temperatures=1000", "--epsilons=0,0.0014", "--objective=auroc", "--check=false"]
    assert main(["tune", f"--model={model}", f"--output={folder}/calibration.json", *calibration, *grid]) == 0
    flags = ["flag", f"--scores={folder}/scores", f"--calibration={folder}/calibration.json", "--detector=msp"]
    assert main(flags) == 0
    return folder


READERS = {
    "pandas": lambda path: pa.Table.from_pandas(pandas.read_parquet(path), preserve_index=False),
    "polars": lambda path: polars.read_parquet(f"{path}/**/*.parquet", hive_partitioning=True).to_arrow(),
    "duckdb": lambda path: duckdb.sql(f"SELECT * FROM '{path}/**/*.parquet'").to_arrow_table(),
}


def plain(dtype):
    """A type without what one library or another makes of it: large or fixed-size lists, views, dictionaries."""
    text = str(dtype.value_type if pa.types.is_dictionary(dtype) else dtype)
    return re.sub(r"\[.*\]|_view|large_|fixed_size_|<.*>", "", text)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", TABLES)
def test_each_table_is_one_table_of_the_documented_types(run, reader, name):
    table = READERS[reader](f"{run}/scores/{name}")
    schema = {
        "scores": schemas.SCORE_SCHEMA,
        "flags": schemas.FLAG_SCHEMA,
        "rejects": schemas.REJECT_SCHEMA,
        "features": schemas.features_schema(6),
    }[name]
    expected = {field.name: plain(field.type) for field in schema} | {"source": "string"}
    found = {field.name: plain(field.type) for field in table.schema}
    if reader == "pandas":
        # A column of nulls has no type there, and one with nulls among whole numbers is one of floats.
        known = [c for c in found if table[c].null_count == 0]
        expected, found = ({c: types[c] for c in known} for types in (expected, found))
    assert found == expected
    assert table.num_rows == {"rejects": 3}.get(name, 29)


def pairs(run, reader):
    """How many rows of flags have their row of scores, by key and by uri."""
    where = f"{run}/scores/{{}}"
    if reader == "pandas":
        flags, scores = (pandas.read_parquet(where.format(name)) for name in ("flags", "scores"))
        by_key = flags.merge(scores, on=["shard", "index"])
        by_uri = flags[flags.uri.notna()].merge(scores, on="uri")
        return len(by_key), (by_key.uri_x == by_key.uri_y).sum(), len(by_uri), (by_uri.index_x == by_uri.index_y).sum()
    if reader == "polars":
        flags, scores = (polars.read_parquet(where.format(f"{name}/**/*.parquet")) for name in ("flags", "scores"))
        by_key, by_uri = flags.join(scores, on=["shard", "index"]), flags.join(scores, on="uri")
        return (
            by_key.height,
            (by_key["uri"] == by_key["uri_right"]).sum(),
            by_uri.height,
            (by_uri["index"] == by_uri["index_right"]).sum(),
        )
    flags, scores = (f"'{where.format(name)}/**/*.parquet'" for name in ("flags", "scores"))
    by_key = f"SELECT count(*), count(*) FILTER (f.uri = s.uri) FROM {flags} f JOIN {scores} s USING (shard, index)"
    by_uri = f'SELECT count(*), count(*) FILTER (f."index" = s."index") FROM {flags} f JOIN {scores} s USING (uri)'
    return *duckdb.sql(by_key).fetchall()[0], *duckdb.sql(by_uri).fetchall()[0]


@pytest.mark.parametrize("reader", READERS)
def test_flags_join_scores_by_key_and_by_uri(run, reader):
    # The four images of noise have no uri.
    assert pairs(run, reader) == (29, 25, 25, 25)


def test_a_uri_says_where_an_image_is(run):
    tables = {name: pyarrow.dataset.dataset(f"{run}/scores/{name}", partitioning="hive").to_table() for name in TABLES}
    for name, table in tables.items():
        for row in table.select(["source", "shard", "index", "id", "uri"]).to_pylist():
            expected = {"known": f"{row['shard']}#{row['index']}", "photos": row["id"], "uniform": None}
            assert row["uri"] == expected[row["source"]], name
    assert sorted(tables["rejects"]["uri"].to_pylist()) == [
        *(f"{run}/in-{i}.tfrecord#0" for i in (0, 1)),
        f"{run}/photos/broken.png",
    ]


def test_every_row_has_the_name_of_its_predicted_class(run):
    for name in ("scores", "flags"):
        table = pyarrow.dataset.dataset(f"{run}/scores/{name}").to_table(columns=["prediction", "class_name"])
        names = [["cat", "dog", "owl", "fox"][predicted] for predicted in table["prediction"].to_pylist()]
        assert table["class_name"].to_pylist() == names
    assert read(run / "scores", "run.json")["class_names"] == ["cat", "dog", "owl", "fox"]


def shown(page):
    """The indented blocks of a page that read tables, by what runs them."""
    blocks = re.findall(r"(?:^    .*\n)+", (samples.ROOT / page).read_text(), re.MULTILINE)
    lines = ["\n".join(line[4:] for line in block.splitlines()) for block in blocks]
    queries = [block for block in lines if block.startswith("SELECT")]
    reads = re.compile(r"pyarrow\.dataset|files = |scores, ")
    return queries, [block for block in lines if reads.match(block)]


@pytest.mark.parametrize("page", DOCS)
def test_queries_of_the_docs_run_as_they_stand(run, page, monkeypatch):
    monkeypatch.chdir(run)
    queries, _ = shown(page)
    assert len(queries) >= 2
    for query in queries:
        assert duckdb.sql(query).fetchall(), query


def test_python_of_the_docs_runs_as_it_stands(run, monkeypatch):
    monkeypatch.chdir(run)
    _, blocks = shown("docs/output.md")
    libraries = {name for name in ("pandas", "polars", "pyarrow") if any(name in block for block in blocks)}
    assert libraries == {"pandas", "polars", "pyarrow"}
    for block in blocks:
        exec(block, {"pandas": pandas, "polars": polars, "pyarrow": pyarrow})
