"""The pipeline table's arithmetic, and the images that it decodes."""

import os

import numpy as np
import pyarrow as pa
import pytest

from benchmarks import growth, pipeline
from odin_beam.transforms.images import decoding, example
from odin_beam.transforms.shards import framing
from odin_beam.transforms.shards.shard import FeatureNames
from odin_beam.transforms.tables import schemas, scores_file
from odin_beam.transforms.tables.layout import scores_path
from tests.helpers import samples


def finished_run(output, commits: dict[str, tuple[int, float]]) -> None:
    """Scores files of so many rows, published at such times."""
    for name, (rows, seconds) in commits.items():
        path = output / f"{name}.tfrecord"
        path.write_bytes(b"")
        shard = samples.shard(path)
        with scores_file.ScoresWriter(str(output), shard) as writer:
            columns = {field.name: np.zeros(rows) for field in schemas.SCORE_SCHEMA}
            columns |= {"shard": ["x"] * rows, "id": ["x"] * rows}
            arrays = [pa.array(columns[field.name]).cast(field.type) for field in schemas.SCORE_SCHEMA]
            writer.write(pa.record_batch(arrays, schema=schemas.SCORE_SCHEMA), [])
            writer.commit("f", rows, "logits", {})
        os.utime(scores_path(str(output), shard), (seconds, seconds))


def test_the_steady_rate_leaves_out_the_first_commit_of_each_process(tmp_path):
    finished_run(tmp_path, {"b": (30, 106.0), "a": (100, 100.0), "d": (6, 110.0), "c": (50, 102.0)})
    assert growth.steady_rate(tmp_path) == pytest.approx((50 + 30 + 6) / 10)
    assert growth.steady_rate(tmp_path, 2) == pytest.approx((30 + 6) / 8)
    assert growth.steady_rate(tmp_path, 4) is None


def test_shares_are_of_the_same_round():
    part = pipeline.Part(
        "photos",
        ("alone", [100.0, 200.0, 400.0]),
        one=[90.0, 190.0, 300.0],
        two=[180.0, 190.0, 900.0],
        first=[4.0, 5.0, 9.0],
        load=[1.0, 2.0, 3.0],
    )
    header, title, alone, one, two, start = pipeline.results_text([part]).splitlines()
    assert header.split() == ["images/s", "min", "-", "max", "share"]
    assert title == "photos"
    assert alone.split() == ["alone", "200.0", "100.0", "-", "400.0"]
    assert one.split() == ["score", "job,", "one", "process", "190.0", "90.0", "-", "300.0", "90%"]
    assert two.endswith("190.0        180.0 - 900.0  2.00 x one process")
    assert start == "  first score after 5.0 s (4.0 - 9.0), of it the model 2.0 s (1.0 - 3.0)"


def test_a_part_without_a_comparison_has_no_share():
    part = pipeline.Part("tiny", None, one=[10.0], first=[1.0], load=[1.0])
    assert [line.split()[0] for line in pipeline.results_text([part]).splitlines()[1:]] == ["tiny", "score", "first"]


def test_every_shard_has_all_images_and_the_first_one_a_batch(tmp_path):
    files = [pipeline.encoded(image, "PNG") for image in samples.random_images(70)]
    pipeline.write_shards(tmp_path, files, shards=2)
    paths = sorted(path.name for path in tmp_path.iterdir())
    assert paths == ["first.tfrecord", "in-00.tfrecord", "in-01.tfrecord"]
    for path in paths:
        read = list(framing.read_file(str(tmp_path / path)))
        found = [example.parse_example(record.payload, FeatureNames()).image for record in read]
        assert found == (files[:64] if path == "first.tfrecord" else files)


def test_photographs_are_jpegs_of_a_photographs_size():
    samples.real("cifar10_test.npz")
    for data in pipeline.photographs(2):
        assert decoding.decode(data, 3).shape == (375, 500, 3)
        assert 30_000 < len(data) < 150_000


def test_bare_decoding_decodes():
    image = np.zeros((20, 20, 3), np.uint8)
    assert pipeline.bare_decoding([pipeline.encoded(image, "JPEG")] * 3) > 0
    with pytest.raises(Exception, match="JPEG"):
        pipeline.bare_decoding([b"\xff\xd8\xff"])
