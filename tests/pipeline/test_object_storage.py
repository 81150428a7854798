"""The whole tour on `gs://`, against an emulator, with and without faults."""

import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from apache_beam.io.filesystems import FileSystems
from google.api_core.retry import retry_unary

from odin_beam.pipeline.main import main
from odin_beam.transforms.fitting.reference_file import read_reference
from odin_beam.transforms.storage import listing, reading, writing
from tests.helpers import object_store, samples
from tests.helpers.feature_fits import comparable


@pytest.fixture
def gs():
    with object_store.object_store():
        yield object_store.BUCKET


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A model, images as files, and three shards."""
    folder = tmp_path_factory.mktemp("local")
    samples.save_model(samples.small_model(), folder / "small.keras")
    for name, count, seed in (("in-0", 60, 0), ("in-1", 60, 1), ("out-0", 50, 2)):
        images = samples.random_images(count, seed=seed)
        samples.write_shard(folder / f"{name}.tfrecord", samples.examples(images))
    for i, image in enumerate(samples.random_images(6, seed=3)):
        path = folder / f"photos/{'ab'[i % 2]}/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(samples.encoded(image))
    return folder


def upload(local: Path, bucket: str) -> None:
    for path in local.rglob("*.*"):
        if path.is_file():
            object_store.put(path, f"{bucket}/{path.relative_to(local)}")


def download(pattern: str, folder: Path) -> Path:
    for uri in object_store.listing(pattern):
        path = folder / uri.removeprefix("gs://b/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(reading.read_bytes(uri))
    return folder


def sources(root) -> list[str]:
    return [f"--in_distribution=known={root}/in-*.tfrecord", f"--out_distribution=foreign={root}/out-*.tfrecord"]


def scores(folder) -> list[dict]:
    table = pq.ParquetDataset(folder).read()
    rows = [{**row, "shard": row["shard"].rpartition("/")[2]} for row in table.to_pylist()]
    return sorted(rows, key=lambda row: (row["source"], row["shard"], row["index"]))


def test_the_whole_tour_is_the_same_in_object_storage(local, gs, tmp_path, capsys):
    upload(local, gs)
    model = f"--model={gs}/small.keras"
    assert main(["ingest", f"--images={gs}/photos/", f"--output={gs}/shards/p", "--shards=2"]) == 0
    assert (
        main(["check", model, f"--in_distribution={gs}/in-*", f"--output={gs}/model.json", "--preprocessing=unit"]) == 0
    )
    photos, reference = f"--in_distribution=photos={gs}/shards/p-*.tfrecord", f"--reference={gs}/reference.npz"
    assert main(["fit", model, photos, f"--output={gs}/reference.npz"]) == 0
    grid = ["--temperatures=10", "--epsilons=0,0.01"]
    assert main(["tune", model, *sources(gs), f"--output={gs}/cal.json", reference, *grid]) == 0
    more = [f"--input=photos={gs}/shards/p-*", f"--input=loose=files:{gs}/photos/**.png"]
    calibrated = [model, f"--calibration={gs}/cal.json"]
    assert main(["score", *calibrated, f"--output={gs}/scores", *sources(gs), *more]) == 0
    assert main(["flag", f"--scores={gs}/scores", f"--calibration={gs}/cal.json", "--detector=odin"]) == 0
    capsys.readouterr()
    assert main(["evaluate", f"--scores={gs}/scores"]) == 0
    assert " images of known\n" in capsys.readouterr().out
    assert main(["report", f"--scores={gs}/scores"]) == 0
    first = [f"--csv={gs}/first.csv", f"--copy={gs}/first", f"--sheet={gs}/first.png"]
    assert main(["top", f"--scores={gs}/scores", "--count=5", "--source=loose", *first]) == 0
    assert main(["top", f"--scores={gs}/scores", "--random=20", "--source=known", f"--csv={gs}/sample.csv"]) == 0
    labelled = reading.read_bytes(f"{gs}/sample.csv").replace(b"\r\n,", b"\r\nno,")
    writing.write_bytes(f"{gs}/labelled.csv", labelled)
    judged = [f"--scores={gs}/scores", f"--labels={gs}/labelled.csv", "--source=known"]
    assert main(["review", *judged, f"--recalibrate={gs}/own.json"]) == 0
    assert main(["compare", f"--scores={gs}/scores", "--reference=known", "--new=foreign"]) == 0
    there = object_store.listing(f"{gs}/**")
    assert len([uri for uri in there if uri.startswith(f"{gs}/first/")]) == 5
    for name in ("first.csv", "first.png", "own.json", "scores/compare-known+foreign.json"):
        assert f"{gs}/{name}" in there
    assert not [uri for uri in there if writing.TEMPORARY in uri]
    for name in ("cal-grid.png", "model-images.png", "scores/summary.json", "scores/flags.json"):
        assert f"{gs}/{name}" in there
    page = reading.read_bytes(f"{gs}/scores/report/report.html").decode()
    assert page.count("data:image/jpeg") >= 2 * 12

    elsewhere = download(f"{gs}/**", tmp_path)
    alone = [
        "score",
        f"--model={local}/small.keras",
        f"--calibration={elsewhere}/cal.json",
        f"--output={tmp_path}/alone",
    ]
    more = [f"--input=photos={elsewhere}/shards/p-*", f"--input=loose=files:{local}/photos/**.png"]
    assert main([*alone, *sources(local), *more]) == 0
    got, expected = scores(elsewhere / "scores/scores"), scores(tmp_path / "alone/scores")
    assert len(got) == 182
    for row, other in zip(got, expected, strict=True):
        # Ids and uris of loose images are their paths, and uris of shards begin with theirs.
        ours, others = (
            {**each, **{name: each[name].rpartition("/")[2] for name in ("id", "uri")}} for each in (row, other)
        )
        assert ours == others


def test_a_rerun_resumes_and_an_object_replaced_is_scored_again(local, gs, capsys):
    upload(local, gs)
    command = ["score", f"--model={gs}/small.keras", f"--output={gs}/scores", *sources(gs)]
    assert main(command) == 0
    before = {uri: listing.stat_file(uri).modified for uri in object_store.listing(f"{gs}/scores/scores/**")}
    assert main(command) == 0
    assert {uri: listing.stat_file(uri).modified for uri in before} == before
    samples.write_shard(local / "new.tfrecord", samples.examples(samples.random_images(5)))
    object_store.put(local / "new.tfrecord", f"{gs}/in-1.tfrecord")
    (local / "new.tfrecord").unlink()
    assert main(command) == 0
    changed = [uri for uri in before if listing.stat_file(uri).modified != before[uri]]
    assert [uri.rpartition("/")[2][:4] for uri in changed] == ["in-1"]
    assert "known: 65 images scored in 2 shards" in capsys.readouterr().out


def test_with_every_third_request_failing_nothing_is_lost_and_nothing_doubled(local, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "RETRY_DELAYS", (0.0,) * 5)
    # Google's client waits a second and more before it tries again.
    monkeypatch.setattr(retry_unary, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: None))
    with object_store.object_store(fail_every=3) as proxy:
        gs = object_store.BUCKET
        upload(local, gs)
        code = main(["score", f"--model={gs}/small.keras", f"--output={gs}/scores", *sources(gs)])
        assert code == 0
        assert proxy.failed > 20
        assert not [uri for uri in object_store.listing(f"{gs}/**") if writing.TEMPORARY in uri]
        got = scores(download(f"{gs}/scores/scores/**", tmp_path) / "scores/scores")
        metrics = json.loads(reading.read_bytes(f"{gs}/scores/metrics.json"))
    assert [row["index"] for row in got] == [*range(50), *range(60), *range(60)]
    assert metrics["pairs"][0]["in_count"] == 120


def test_a_fit_with_every_third_request_failing_is_that_of_local_files(local, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "RETRY_DELAYS", (0.0,) * 5)
    monkeypatch.setattr(retry_unary, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: None))
    assert main(["fit", f"--model={local}/small.keras", sources(local)[0], f"--output={tmp_path}/r.npz"]) == 0
    with object_store.object_store(fail_every=3) as proxy:
        gs = object_store.BUCKET
        upload(local, gs)
        assert main(["fit", f"--model={gs}/small.keras", sources(gs)[0], f"--output={gs}/r.npz"]) == 0
        assert proxy.failed > 20
        there = object_store.listing(f"{gs}/r**")
        assert not [uri for uri in there if writing.TEMPORARY in uri or "statistics" in uri]
        found = comparable(read_reference(f"{gs}/r.npz"))
    expected = comparable(read_reference(f"{tmp_path}/r.npz"))
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=1e-9, err_msg=name)


def test_a_bucket_that_is_not_there_is_one_line(gs, local, capsys):
    code = main(["score", f"--model={local}/small.keras", f"--output={gs}/out", "--input=gs://nowhere/x-*"])
    assert code == 2
    # Before it the emulator speaks of itself.
    assert re.match(r"odin-beam score: cannot list gs://nowhere/x-\*: 404 ", capsys.readouterr().err.splitlines()[-1])
    assert FileSystems.match([f"{gs}/out/**"])[0].metadata_list == []
