"""The parts of the scoring DoFn by themselves."""

import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.utils.shared import Shared

from odin_beam import transforms
from odin_beam.transforms import errors
from odin_beam.transforms.detectors.odin_settings import OdinGrid, OdinSettings
from odin_beam.transforms.detectors.passes import Passes
from odin_beam.transforms.detectors.score_function import Scored
from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.images.geometry import Geometry
from odin_beam.transforms.model.files import model_digest
from odin_beam.transforms.scoring import score_shards
from odin_beam.transforms.scoring.batches import DecodedBatch, decode_batch, work_ahead
from odin_beam.transforms.scoring.rows import score_rows
from odin_beam.transforms.scoring.scorer import Scorer
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards import records
from odin_beam.transforms.shards.shard import FeatureNames
from odin_beam.transforms.tables import run_file, scores_file
from odin_beam.transforms.tables.layout import scores_path
from tests.helpers import samples


@pytest.fixture
def decoders():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def test_work_ahead_keeps_the_order_and_decodes_in_other_threads(decoders):
    caller = threading.get_ident()
    results = work_ahead(iter(range(20)), lambda n: (n, threading.get_ident()), decoders, depth=3)
    numbers, threads = zip(*results, strict=True)
    assert numbers == tuple(range(20))
    assert caller not in threads


def test_work_ahead_reads_no_further_ahead_than_its_depth(decoders):
    taken = []

    def batches():
        for n in range(100):
            taken.append(n)
            yield n

    working = work_ahead(batches(), lambda n: n, decoders, depth=3)
    for n in range(10):
        assert next(working) == n
        # The batch in hand, three ahead of it.
        assert len(taken) <= n + 1 + 3
    working.close()
    assert len(taken) <= 10 + 3


@pytest.mark.parametrize("where", ["reading", "decoding"])
def test_work_ahead_raises_what_went_wrong_in_the_callers_thread_after_what_was_whole(decoders, where):
    def batches():
        yield from range(5)
        if where == "reading":
            raise OSError("no more")

    def decode(n):
        if where == "decoding" and n == 4:
            raise ValueError("bad")
        return n

    got, working = [], work_ahead(batches(), decode, decoders, depth=2)
    with pytest.raises(OSError if where == "reading" else ValueError):
        for n in working:
            got.append(n)  # noqa: PERF402 - `extend` would lose what came before the error
    assert got == list(range(5 if where == "reading" else 4))


def test_a_decoded_batch_holds_what_has_pixels_and_says_what_has_not(tmp_path):
    pictures = samples.random_images(2)
    batch = [
        records.Record(7, 100, samples.example(image=samples.encoded(pictures[0]), label=2, id="a/b.png")),
        records.Record(8, 200, None, ("bad_payload_checksum", "5 bytes")),
        records.Record(9, 300, samples.example(image=pictures[1].tobytes())),
        records.Record(10, 400, samples.example(image=b"?", id="broken.png")),
    ]
    shard = samples.shard(samples.write_shard(tmp_path / "x.tfrecord", []))
    decoded = decode_batch(batch, shard, ScoreSettings("", ""), (8, 8, 3), np.empty((5, 8, 8, 3), np.float32))
    np.testing.assert_array_equal(decoded.pixels, pictures.astype(np.float32) / np.float32(255))
    assert decoded.rows == [
        {"index": 7, "offset": 100, "id": "a/b.png", "uri": f"{shard.path}#7", "label": 2},
        {"index": 9, "offset": 300, "id": "x.tfrecord__9", "uri": f"{shard.path}#9", "label": None},
    ]
    assert [(r["index"], r["id"], r["reason"]) for r in decoded.rejects] == [
        (8, "x.tfrecord__8", "bad_payload_checksum"),
        (10, "broken.png", "undecodable"),
    ]


def test_identity_covers_what_moves_a_score_and_nothing_else():
    settings = ScoreSettings("m.keras", "d1g3st")
    same = [ScoreSettings("elsewhere/m.keras", "d1g3st"), ScoreSettings("m.keras", "d1g3st", batch_size=7)]
    other = [
        ScoreSettings("m.keras", "other"),
        ScoreSettings("m.keras", "d1g3st", odin=OdinSettings(1000, 0.002)),
        ScoreSettings("m.keras", "d1g3st", odin=OdinGrid((1000,), (0.0014,))),
        ScoreSettings("m.keras", "d1g3st", geometry=Geometry(antialias=True)),
        ScoreSettings("m.keras", "d1g3st", detectors=("msp",)),
        ScoreSettings("m.keras", "d1g3st", features=FeatureNames(image="img")),
    ]
    assert all(variant.identity() == settings.identity() for variant in same)
    assert all(variant.identity() != settings.identity() for variant in other)


def test_a_worker_of_another_version_refuses_to_work():
    score = score_shards.ScoreShard(ScoreSettings("", ""), "", None, launcher_version="0.0.0")
    with pytest.raises(RuntimeError, match=r"build the image from the launcher's version"):
        score.setup()


def test_the_transform_separates_finished_and_failed_shards_and_counts_them(tmp_path):
    model = samples.save_model(samples.small_model(), tmp_path / "small.keras")
    good = samples.shard(samples.write_shard(tmp_path / "good.tfrecord", samples.examples(samples.random_images(3))))
    gone = samples.shard(samples.write_shard(tmp_path / "gone.tfrecord", []))
    (tmp_path / "gone.tfrecord").unlink()
    pipeline = beam.Pipeline(runner="FnApiRunner")
    settings = ScoreSettings(model, model_digest(model))
    scored = pipeline | beam.Create([good, gone]) | score_shards.ScoreShards(settings, f"{tmp_path}/out")
    assert_that(scored["finished"], equal_to([good]), label="finished")
    assert_that(scored["failed"] | beam.Keys(), equal_to([gone]), label="failed")
    result = pipeline.run()
    result.wait_until_finish()
    counters = {c.key.metric.name: c.committed for c in result.metrics().query()["counters"]}
    assert counters["num_inferences"] == 3
    assert (counters["forward_passes"], counters["gradient_passes"]) == (6, 3)
    assert (counters["shards_finished"], counters["shards_failed"]) == (1, 1)


def test_a_worker_that_finds_another_model_than_was_launched_scores_nothing(tmp_path):
    model = samples.save_model(samples.small_model(), tmp_path / "small.keras")
    settings = ScoreSettings(model, model_digest(model))
    shard = samples.shard(samples.write_shard(tmp_path / "x.tfrecord", samples.examples(samples.random_images(1))))
    samples.save_model(samples.small_model(seed=1), model)
    score = score_shards.ScoreShard(settings, f"{tmp_path}/out", Shared(), transforms.__version__)
    with pytest.raises(ClassifierError, match="has changed since the run was launched"):
        list(score.process(shard))
    assert not (tmp_path / "out").exists()


def test_a_score_beyond_what_its_column_holds_is_null(tmp_path):
    shard = samples.shard(samples.write_shard(tmp_path / "a.tfrecord", []))
    rows = [{"index": i, "offset": i, "id": str(i), "uri": None, "label": None} for i in range(3)]
    decoded = DecodedBatch(np.zeros((3, 8, 8, 3), np.float32), rows)
    columns = {
        "finite": np.array([True, False, True]),
        "prediction": np.zeros(3, np.int32),
        "cam_var": np.array([1e39, 1.0, 2.5]),
        "msp": np.array([0.5, 0.5, np.inf]),
    }
    batch = score_rows(shard, decoded, columns, ScoreSettings("m", "d").schema)
    assert batch["cam_var"].to_pylist() == [None, 2.5]
    assert batch["msp"].to_pylist() == [0.5, None]
    assert batch["index"].to_pylist() == [0, 2]


def test_a_row_has_the_name_of_its_predicted_class(tmp_path):
    shard = samples.shard(samples.write_shard(tmp_path / "a.tfrecord", []))
    rows = [{"index": i, "offset": i, "id": str(i), "uri": None, "label": None} for i in range(3)]
    decoded = DecodedBatch(np.zeros((3, 8, 8, 3), np.float32), rows)
    columns = {"finite": np.array([True, False, True]), "prediction": np.array([2, 0, 1], np.int32)}
    schema = ScoreSettings("m", "d").schema
    named = score_rows(shard, decoded, columns, schema, pa.array(["cat", "dog", "owl"]))
    assert named["class_name"].to_pylist() == ["owl", "dog"]
    assert score_rows(shard, decoded, columns, schema)["class_name"].to_pylist() == [None, None]


def test_an_image_of_a_shard_that_was_replaced_is_not_read_back(tmp_path):
    path = samples.write_shard(tmp_path / "a.tfrecord", [b"old"])
    shard = samples.shard(path)
    assert shard.content.read_back(shard, str(tmp_path), 0, 0).payload == b"old"
    samples.write_shard(path, [b"something newer"])
    with pytest.raises(errors.StorageError, match="has changed since it was listed"):
        shard.content.read_back(shard, str(tmp_path), 0, 0)


class SmallDevice:
    """A score function on a device whose memory holds `most` images; scores are the images' own first pixels."""

    def __init__(self, most):
        self.most = most
        self.tried = []

    def __call__(self, pixels, advance):
        self.tried.append(len(pixels))
        advance(0.25)
        if len(pixels) > self.most:
            raise tf.errors.ResourceExhaustedError(None, None, "out of memory")
        advance(0.75)
        columns = {"prediction": np.zeros(len(pixels), np.int32), "finite": np.ones(len(pixels), bool)}
        return Scored({**columns, "msp": pixels[:, 0, 0, 0]}, Passes(2 * len(pixels), len(pixels)))


@pytest.fixture
def scorer(tmp_path):
    model = samples.save_model(samples.small_model(), tmp_path / "small.keras")
    return Scorer(ScoreSettings(model, model_digest(model), batch_size=20))


def test_a_batch_that_exhausts_the_device_is_scored_in_halves_and_so_are_those_that_follow(scorer, caplog):
    scorer._score = device = SmallDevice(6)
    pixels = np.random.default_rng(0).random((20, 8, 8, 3), np.float32)
    scored, halved, _ = scorer.score(pixels)
    np.testing.assert_array_equal(scored.columns["msp"], pixels[:, 0, 0, 0])
    assert scored.passes == Passes(40, 20)
    assert (halved, scorer.batch_size, device.tried) == (2, 5, [20, 10, 5, 5, 5, 5])
    assert scorer.images == 20
    assert scorer.score(pixels[:13]).halved == 0
    assert device.tried[6:] == [5, 5, 3]
    assert [record.message for record in caplog.records] == [
        "20 images at once exhaust the device's memory: continuing with halves; give a smaller batch_size"
    ]


def test_a_single_image_that_exhausts_the_device_ends_the_run(scorer):
    scorer._score = SmallDevice(0)
    with pytest.raises(errors.OutOfMemory, match="a single image exhausts the memory"):
        scorer.score(np.zeros((3, 8, 8, 3), np.float32))


def test_a_batch_that_was_halved_is_counted_and_its_rows_are_whole(tmp_path, scorer):
    scorer._score = SmallDevice(6)
    images = samples.random_images(30)
    shard = samples.shard(samples.write_shard(tmp_path / "a.tfrecord", samples.examples(images)))
    shared = Shared()
    # Held, or the handle lets go of it.
    kept = shared.acquire(lambda: scorer)
    settings = dataclasses.replace(scorer._settings, detectors=("msp",))
    pipeline = beam.Pipeline(runner="FnApiRunner")
    pipeline | beam.Create([shard]) | score_shards.ScoreShards(settings, f"{tmp_path}/out", shared)
    result = pipeline.run()
    result.wait_until_finish()
    counters = {c.key.metric.name: c.committed for c in result.metrics().query()["counters"]}
    sizes = {d.key.metric.name: d.committed for d in result.metrics().query()["distributions"]}
    assert (counters["batches_halved"], counters["num_inferences"], kept.images) == (2, 30, 30)
    assert (sizes["inference_request_batch_size"].max, sizes["inference_request_batch_size"].sum) == (20, 30)
    assert sizes["inference_batch_latency_micro_secs"].count == 2
    commit = scores_file.read_commit(scores_path(f"{tmp_path}/out", shard))
    assert (commit.framed, commit.scored) == (30, 30)


def test_the_memory_of_batches_is_used_again_and_scores_are_those_of_their_images(tmp_path, scorer):
    pictures = samples.random_images(400)
    shard = samples.shard(samples.write_shard(tmp_path / "a.tfrecord", samples.examples(pictures)))
    pixels = pictures.astype(np.float32) / np.float32(255)
    expected = np.concatenate([scorer.score(pixels[i : i + 20]).scored.columns["msp"] for i in range(0, 400, 20)])
    run_file.claim(f"{tmp_path}/out", scorer._settings)
    for _ in range(2):
        score_shards.score_shard(shard, scorer, scorer._settings, str(tmp_path / "out"))
        scores = pq.read_table(scores_path(str(tmp_path / "out"), shard), columns=["msp"])["msp"].to_numpy()
        np.testing.assert_array_equal(scores, expected.astype(scores.dtype))
    assert 1 <= len(scorer.buffers._free) <= score_shards.BATCHES_AHEAD + 2
