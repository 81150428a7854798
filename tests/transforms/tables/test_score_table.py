"""The Parquet files of a shard: what is in them, when they appear, and what counts as committed."""

import dataclasses
import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from odin_beam.transforms import errors
from odin_beam.transforms.detectors import registry
from odin_beam.transforms.errors import OutputError
from odin_beam.transforms.storage import file_system, writing
from odin_beam.transforms.tables import parquet, schemas, scores_file
from odin_beam.transforms.tables.layout import rejects_path, scores_file_name, scores_path
from odin_beam.transforms.tables.scores_file import Commit, ScoresWriter
from tests.helpers import samples

SETTINGS = {"temperature": 1000.0, "detectors": ["odin", "msp"]}


class CloudError(Exception):
    """As Google's client raises: no OSError."""


@pytest.fixture
def shard(tmp_path):
    return samples.shard(samples.write_shard(tmp_path / "in/x.tfrecord", [b"payload"]))


@pytest.fixture
def output(tmp_path):
    return str(tmp_path / "out")


def score_rows(shard, indexes) -> pa.RecordBatch:
    """Rows with a value of its own in every place, and a null wherever there may be one."""
    rows = []
    for i in indexes:
        optional = None if i % 3 == 2 else i
        scores = {name: i + j / 8 for j, name in enumerate(("odin", "odin_logit", "msp", "energy", "margin"))}
        rows.append(
            {"shard": shard.path, "index": i, "offset": optional, "id": f"n{i}", "label": optional, "prediction": i % 4}
            | scores
            | {"max_logit": None, "neg_entropy": None if i % 2 else -float(i)}
        )
    return pa.RecordBatch.from_pylist(rows, schemas.SCORE_SCHEMA)


def reject(index: int) -> dict:
    place = {"index": index, "offset": None, "id": f"n{index}", "uri": f"/n{index}"}
    return {**place, "reason": "undecodable", "detail": f"detail {index}"}


def committed(
    output, shard, scores=(0, 1, 2), rejects=(), fingerprint="f1", head="linear", settings=SETTINGS
) -> Commit:
    """Writes a shard's files in one go."""
    with ScoresWriter(output, shard) as writer:
        writer.write(score_rows(shard, scores), list(map(reject, rejects)))
        return writer.commit(fingerprint, len(scores) + len(rejects), head, settings)


def files(output) -> list[str]:
    return sorted(str(path.relative_to(output)) for path in Path(output).rglob("*") if path.is_file())


def expected_files(shard, *kinds) -> list[str]:
    return [f"{kind}/source=photos/{shard.file_name}" for kind in kinds]


# What is in the files.


def test_score_columns_are_those_of_the_design(output, shard):
    committed(output, shard)
    schema = pq.read_schema(scores_path(output, shard))
    assert [(field.name, str(field.type)) for field in schema] == [
        ("shard", "string"),
        ("index", "int64"),
        ("offset", "int64"),
        ("id", "string"),
        ("uri", "string"),
        ("label", "int64"),
        ("prediction", "int32"),
        ("class_name", "string"),
        ("odin", "double"),
        ("odin_logit", "double"),
        ("msp", "double"),
        ("max_logit", "float"),
        ("energy", "float"),
        ("neg_entropy", "float"),
        ("margin", "float"),
        ("gen", "float"),
        ("grad_norm", "float"),
        ("cam_var", "float"),
        ("cam_max", "float"),
        ("scale", "float"),
        ("ash_b", "float"),
        ("react", "float"),
        ("mds", "float"),
        ("rmds", "float"),
        ("mds_unit", "float"),
        ("rmds_unit", "float"),
        ("gen_mds_unit", "float"),
        ("vim", "float"),
        ("knn", "float"),
        ("nnguide", "float"),
        ("fdbd", "float"),
        ("nci", "float"),
        ("she", "float"),
    ]
    assert [field.name for field in schema if not field.nullable] == ["shard", "index", "id", "prediction"]
    others = {"shard", "index", "offset", "id", "uri", "label", "prediction", "class_name", "odin_logit"}
    assert {field.name for field in schema} - others == set(registry.ALL)


def test_reject_columns_are_those_of_the_design(output, shard):
    committed(output, shard, rejects=[5])
    schema = pq.read_schema(rejects_path(output, shard))
    columns = [("shard", "string"), ("index", "int64"), ("offset", "int64")]
    columns += [(name, "string") for name in ("id", "uri", "reason", "detail")]
    assert [(field.name, str(field.type)) for field in schema] == columns
    assert [field.name for field in schema if not field.nullable] == ["shard", "index", "reason", "detail"]


def test_rows_read_back_as_they_were_written(output, shard):
    with ScoresWriter(output, shard) as writer:
        for start in (0, 5, 10):
            writer.write(score_rows(shard, range(start, start + 5)), [reject(100 + start), reject(101 + start)])
        writer.commit("f", 21, "linear", {})
    scores = pq.read_table(scores_path(output, shard), partitioning=None)
    assert scores.to_pylist() == score_rows(shard, range(15)).to_pylist()
    rejects = pq.read_table(rejects_path(output, shard), partitioning=None)
    assert rejects.to_pylist() == [{"shard": shard.path, **reject(i)} for i in (100, 101, 105, 106, 110, 111)]


def test_the_sources_of_a_run_read_as_one_table(output, shard):
    other = dataclasses.replace(shard, source="noise")
    committed(output, shard, [0, 1])
    committed(output, other, [2])
    table = pyarrow.dataset.dataset(f"{output}/scores", partitioning="hive").to_table()
    assert sorted(zip(table["source"].to_pylist(), table["index"].to_pylist(), strict=True)) == [
        ("noise", 2),
        ("photos", 0),
        ("photos", 1),
    ]


@pytest.mark.parametrize(
    ("batches", "groups"),
    [
        ([3], [3]),
        ([10], [10]),
        ([5, 5, 5], [10, 5]),
        # Irregular batches, as rejects make them, leave no tiny groups.
        ([7] * 6, [14, 14, 14]),
        ([3, 3, 3, 1, 3, 3, 3, 1, 2], [10, 10, 2]),
        ([25, 1], [25, 1]),
        ([0, 4, 0, 6, 0, 1], [10, 1]),
    ],
)
def test_rows_are_gathered_into_row_groups(output, shard, monkeypatch, batches, groups):
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 10)
    ends = np.cumsum(batches)
    with ScoresWriter(output, shard) as writer:
        for end, size in zip(ends, batches, strict=True):
            writer.write(score_rows(shard, range(end - size, end)), [])
        writer.commit("f", int(ends[-1]), "linear", {})
    metadata = pq.read_metadata(scores_path(output, shard))
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == groups
    assert {metadata.row_group(0).column(i).compression for i in range(metadata.num_columns)} == {"ZSTD"}
    tables = list(parquet.read_columns(scores_path(output, shard), ["index"]))
    assert [table.num_rows for table in tables] == groups
    assert pa.concat_tables(tables)["index"].to_pylist() == list(range(ends[-1]))


def test_a_shard_without_scores_still_has_a_scores_file(output, shard):
    with ScoresWriter(output, shard) as writer:
        commit = writer.commit("f", 0, "linear", {})
    assert commit == Commit("f", framed=0, scored=0, rejected=0, head="linear")
    assert files(output) == expected_files(shard, "scores")
    table = pq.read_table(scores_path(output, shard), partitioning=None)
    assert table.num_rows == 0
    assert table.schema.equals(schemas.SCORE_SCHEMA)
    assert list(parquet.read_columns(scores_path(output, shard), ["odin"])) == []


# Commit.


def test_the_commit_record_is_read_back_with_its_counts(output, shard):
    commit = committed(output, shard, range(5), [7, 8], fingerprint="f1", head="softmax removed")
    assert commit == Commit("f1", framed=7, scored=5, rejected=2, head="softmax removed")
    assert scores_file.read_commit(scores_path(output, shard)) == commit
    assert scores_file.read_commit(rejects_path(output, shard)) == commit


@pytest.mark.parametrize("framed", [4, 6])
def test_rows_that_are_not_those_of_the_records_found_are_not_committed(output, shard, framed):
    with ScoresWriter(output, shard) as writer:
        writer.write(score_rows(shard, range(3)), [reject(7), reject(8)])
        with pytest.raises(ValueError, match=rf"{framed} records, but 3 scores and 2 rejects"):
            writer.commit("f", framed, "linear", {})
    assert files(output) == []


def test_the_settings_stand_in_the_files_metadata(output, shard):
    committed(output, shard, rejects=[7], settings=SETTINGS)
    for path in (scores_path(output, shard), rejects_path(output, shard)):
        metadata = json.loads(pq.read_metadata(path).metadata[b"odin_beam"])
        assert metadata["settings"] == SETTINGS
        assert metadata["fingerprint"] == "f1"


def test_rejects_are_published_before_scores_and_nothing_else_remains(output, shard, monkeypatch):
    published, publish = [], writing.publish
    monkeypatch.setattr(
        writing, "publish", lambda temporary, final: (published.append(final), publish(temporary, final))
    )
    committed(output, shard, rejects=[7])
    assert published == [rejects_path(output, shard), scores_path(output, shard)]
    assert files(output) == expected_files(shard, "rejects", "scores")


@pytest.mark.parametrize("name", ["x.tfrecord", "x[1]*.tfrecord"])
def test_without_rejects_there_is_no_file_of_them_and_an_old_one_goes_before_the_scores(
    output, shard, monkeypatch, name
):
    shard = dataclasses.replace(shard, file_name=scores_file_name(f"/in/{name}"))
    committed(output, shard, rejects=[7])
    publish, seen = writing.publish, []
    monkeypatch.setattr(
        writing,
        "publish",
        lambda temporary, final: (seen.append(files(f"{output}/rejects")), publish(temporary, final)),
    )
    committed(output, shard)
    assert seen == [[]]
    assert files(output) == expected_files(shard, "scores")


def test_committing_again_replaces_the_files(output, shard):
    committed(output, shard, range(9), [20, 21], fingerprint="old")
    commit = committed(output, shard, [3], [22], fingerprint="new")
    assert scores_file.read_commit(scores_path(output, shard)) == commit
    assert pq.read_table(scores_path(output, shard), partitioning=None)["index"].to_pylist() == [3]
    assert pq.read_table(rejects_path(output, shard), partitioning=None)["index"].to_pylist() == [22]


@pytest.mark.parametrize("row_group_rows", [2, 1000], ids=["partly written", "nothing written"])
@pytest.mark.parametrize("error", [None, KeyboardInterrupt, errors.StorageError])
def test_leaving_without_commit_leaves_no_file(output, shard, monkeypatch, row_group_rows, error):
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", row_group_rows)
    streams, create = [], file_system.create
    monkeypatch.setattr(
        file_system,
        "create",
        lambda *given, **named: streams.append(create(*given, **named)) or streams[-1],
    )

    def work():
        with ScoresWriter(output, shard) as writer:
            writer.write(score_rows(shard, range(5)), [reject(7), reject(8), reject(9)])
            if row_group_rows == 2:
                assert len(files(f"{output}/{writing.TEMPORARY}")) == 2
            if error:
                raise error()

    if error:
        with pytest.raises(error):
            work()
    else:
        work()
    assert files(output) == []
    assert len(streams) == (2 if row_group_rows == 2 else 0)
    assert all(stream.closed for stream in streams)


def test_until_the_commit_nothing_stands_under_scores_or_rejects(output, shard, monkeypatch):
    monkeypatch.setattr(parquet, "ROW_GROUP_ROWS", 1)
    with ScoresWriter(output, shard) as writer:
        writer.write(score_rows(shard, range(5)), [reject(7)])
        assert {name.partition("/")[0] for name in files(output)} == {writing.TEMPORARY}


@pytest.mark.parametrize("lost_at", ["rejects", "scores"])
@pytest.mark.parametrize("winner", ["equal", "other fingerprint", "other counts", "none"])
def test_losing_a_race_is_success_only_against_an_equal_file(output, shard, monkeypatch, lost_at, winner):
    with ScoresWriter(output, shard) as writer:
        writer.write(score_rows(shard, range(3)), [reject(7)])
        if winner != "none":
            scores = range(4) if winner == "other counts" else range(3)
            committed(output, shard, scores, [7], "f2" if winner == "other fingerprint" else "f1")
        before = files(output)
        publish = writing.publish

        def lose(temporary, final):
            if f"/{lost_at}/" in final:
                raise errors.StorageError(f"cannot write {final}: it is another's")
            publish(temporary, final)

        monkeypatch.setattr(writing, "publish", lose)
        if winner == "equal":
            assert writer.commit("f1", 4, "linear", SETTINGS) == Commit("f1", 4, 3, 1, "linear")
        else:
            with pytest.raises(OutputError, match=rf"^cannot write to {output}: .*it is another's$"):
                writer.commit("f1", 4, "linear", SETTINGS)
    after = [name for name in files(output) if not name.startswith("rejects/")]
    assert after == [name for name in before if name.startswith("scores/")]


def parquet_with(metadata: dict | None) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"odin": [0.5]}).replace_schema_metadata(metadata), sink)
    return sink.getvalue().to_pybytes()


GOOD = {"fingerprint": "f", "framed": 3, "scored": 2, "rejected": 1, "head": "linear"}


def test_read_commit_takes_a_file_with_good_metadata(tmp_path):
    (tmp_path / "x").write_bytes(parquet_with({"odin_beam": json.dumps({**GOOD, "more": [1]})}))
    assert scores_file.read_commit(f"{tmp_path}/x") == Commit(**GOOD)


@pytest.mark.parametrize(
    "said",
    [
        *({name: value for name, value in GOOD.items() if name != left_out} for left_out in GOOD),
        *({**GOOD, name: value} for name in ("fingerprint", "head") for value in (None, 5, ["f"], {"f": 1})),
        *({**GOOD, name: value} for name in ("framed", "scored", "rejected") for value in (None, "3", 3.0, True, [3])),
        [],
        list(GOOD.values()),
        "fingerprint",
        None,
        3,
    ],
    ids=str,
)
def test_read_commit_refuses_metadata_of_unexpected_types(tmp_path, said):
    (tmp_path / "x").write_bytes(parquet_with({"odin_beam": json.dumps(said)}))
    assert scores_file.read_commit(f"{tmp_path}/x") is None


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"no Parquet at all, but longer than a footer",
        b"PAR1" + b"\xff" * 100 + b"\x64\0\0\0PAR1",
        parquet_with(None),
        parquet_with({"other": "{}"}),
        parquet_with({"odin_beam": ""}),
        parquet_with({"odin_beam": json.dumps(GOOD)[:-1]}),
        parquet_with({"odin_beam": b"\xff\xfe"}),
    ],
    ids=["absent", "empty", "text", "bad footer", "foreign", "other key", "empty JSON", "cut JSON", "no text"],
)
def test_read_commit_refuses_what_is_no_scores_file(tmp_path, data):
    if data is not None:
        (tmp_path / "x").write_bytes(data)
    assert scores_file.read_commit(f"{tmp_path}/x") is None
    assert scores_file.read_commit(f"{tmp_path}/x/below") is None
    assert scores_file.read_commit(str(tmp_path)) is None


def test_read_commit_refuses_a_file_cut_anywhere(output, shard):
    committed(output, shard)
    path = Path(scores_path(output, shard))
    data = path.read_bytes()
    for size in range(0, len(data), 101):
        path.write_bytes(data[:size])
        assert scores_file.read_commit(str(path)) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        (b"", "Parquet file size is 0 bytes"),
        (b"no Parquet at all, but longer than a footer", "Parquet magic bytes not found in footer.*"),
    ],
    ids=["absent", "empty", "text"],
)
def test_columns_of_a_file_that_is_not_there_or_broken_are_a_storage_error(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(errors.StorageError, match=rf"^cannot read {tmp_path}/x: {reason}$"):
        list(parquet.read_columns(f"{tmp_path}/x", ["odin"]))


def test_cloud_trouble_is_a_storage_error_to_readers_of_columns_and_no_commit(output, shard, monkeypatch):
    class Failing(io.FileIO):
        def read(self, size=-1):
            raise CloudError("503 from the cloud")

    committed(output, shard)
    path = scores_path(output, shard)
    monkeypatch.setattr(file_system, "open_to_read", Failing)
    with pytest.raises(errors.StorageError, match=rf"^cannot read {path}: 503 from the cloud$"):
        list(parquet.read_columns(path, ["odin"]))
    assert scores_file.read_commit(path) is None


# Names and fingerprints.


def test_output_names_tell_shards_of_one_base_name_apart():
    paths = ["/a/x.tfrecord", "/b/x.tfrecord", "gs://a/x.tfrecord", "/a/y.tfrecord", "x.tfrecord"]
    names = [scores_file_name(path) for path in paths]
    assert len(set(names)) == len(paths)
    for path, name in zip(paths, names, strict=True):
        base, _, digest = name.rpartition("-")
        assert base == Path(path).name
        assert len(digest) == len("0123456789abcdef.parquet")
        assert digest.endswith(".parquet")
    assert names == [scores_file_name(path) for path in paths]
    # By `printf %s /a/x.tfrecord | sha256sum`: names must not change from one version to the next.
    assert names[0] == "x.tfrecord-1f57af003c64303f.parquet"


def test_paths_that_agree_in_32_bits_of_the_digest_have_names_of_their_own():
    """Found among 111,126 folders; with 8 digits one shard's scores would replace the other's."""
    paths = [f"/tmp/rev/arc/date={day}/part-00000.tfrecord" for day in ("058319", "111126")]
    digests = [hashlib.sha256(path.encode()).hexdigest() for path in paths]
    assert digests[0][:8] == digests[1][:8]
    assert scores_file_name(paths[0]) != scores_file_name(paths[1])


@pytest.mark.parametrize("first", [None, 0])
def test_no_output_name_begins_with_a_character_that_readers_skip(first):
    paths = [f"/a/{name}" for name in ("_x", ".x", "shard_x", "_", "_" * 300, "._", ".*", "_**", "x")]
    names = [scores_file_name(path, first) for path in paths]
    assert not [name for name in names if name.startswith(("_", "."))]
    assert len(set(names)) == len(paths)


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "x" * 179 + "ä" * 30])
def test_a_name_as_long_as_file_systems_allow_can_be_written(output, shard, name):
    path = f"/in/{name}"
    assert scores_file_name(path) != scores_file_name(path[:-1] + "z")
    committed(output, dataclasses.replace(shard, path=path, file_name=scores_file_name(path)), rejects=[7])
    assert len(files(output)) == 2


def test_paths_of_a_shards_files(shard):
    assert scores_path("/out", shard) == f"/out/scores/source=photos/{shard.file_name}"
    assert rejects_path("/out", shard) == f"/out/rejects/source=photos/{shard.file_name}"


def test_the_fingerprint_depends_on_settings_path_size_and_time_alone(shard):
    base = scores_file.fingerprint(SETTINGS, shard)
    same = [
        scores_file.fingerprint(dict(reversed(SETTINGS.items())), shard),
        scores_file.fingerprint(json.loads(json.dumps(SETTINGS)), shard),
        *(
            scores_file.fingerprint(SETTINGS, dataclasses.replace(shard, **{name: "other"}))
            for name in ("source", "role", "file_name")
        ),
    ]
    other = [
        scores_file.fingerprint({**SETTINGS, "temperature": 1.0}, shard),
        scores_file.fingerprint({**SETTINGS, "more": None}, shard),
        scores_file.fingerprint({}, shard),
        scores_file.fingerprint(SETTINGS, dataclasses.replace(shard, path=shard.path + "x")),
        scores_file.fingerprint(SETTINGS, dataclasses.replace(shard, size=shard.size + 1)),
        scores_file.fingerprint(SETTINGS, dataclasses.replace(shard, modified=shard.modified + 0.001)),
    ]
    assert set(same) == {base}
    assert len({base, *other}) == 1 + len(other)
    assert len(base) == 64


# An output that cannot be written.


@pytest.mark.parametrize("stands", ["", writing.TEMPORARY, "scores", "rejects", "scores/source=photos"])
def test_a_file_where_a_folder_should_be_is_an_output_error_that_names_the_output(output, shard, stands):
    path = Path(output, stands)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way")
    with pytest.raises(OutputError, match=rf"^cannot write to {output}: .*(File exists|Not a directory)"):
        committed(output, shard, rejects=[7])
    assert path.read_text() == "in the way"
    if stands:
        # Rejects may stand, since they come first; scores never do.
        assert [name for name in files(output) if not name.startswith("rejects/source")] == [stands]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), CloudError("403 from the cloud")], ids=repr)
@pytest.mark.parametrize("where", ["create", "write", "close", "publish"])
def test_a_storage_that_refuses_is_an_output_error(output, shard, monkeypatch, where, error):
    create = file_system.create

    class Stream:
        closed = False

        def __init__(self, path, **options):
            if where == "create":
                raise error
            self._stream = create(path, **options)

        def write(self, data):
            if where == "write":
                raise error
            return self._stream.write(data)

        def close(self):
            self._stream.close()
            if where == "close":
                raise error

        def __getattr__(self, name):
            return getattr(self._stream, name)

    def refuse(sources, destinations):
        raise error

    monkeypatch.setattr(file_system, "create", Stream)
    if where == "publish":
        monkeypatch.setattr(file_system, "rename", refuse)
    text = getattr(error, "strerror", None) or str(error)
    with pytest.raises(OutputError, match=rf"^cannot write to {output}: .*{text}$"):
        committed(output, shard)
    assert files(output) == []


def test_the_reasons_of_rejects_are_counted_and_unknown_where_their_file_is_gone(output, shard):
    committed(output, shard, rejects=(4, 5))
    assert scores_file.read_reject_reasons(output, shard) == {"undecodable": 2}
    Path(rejects_path(output, shard)).unlink()
    assert scores_file.read_reject_reasons(output, shard) == {"unknown": 2}
    assert scores_file.read_reject_reasons(f"{output}-elsewhere", shard) == {}
