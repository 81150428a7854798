"""What is read of a grid's rows: halves, and which images are made of the same originals."""

import numpy as np
import pyarrow as pa

from odin_beam.transforms.calibration.grid_scores import read_grid_scores
from odin_beam.transforms.detectors.odin_settings import OdinGrid
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.contents.surrogates import Surrogate
from odin_beam.transforms.shards.contents.tfrecords import TFRecords
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables import scores_file

SETTINGS = ScoreSettings("m.keras", "ab" * 32, odin=OdinGrid((1.0,), (0.0,)))
CELL = "odin_T1_eps0"


def shard(name, source="known", role="in_distribution", kind=None):
    content = Surrogate(kind, TFRecords()) if kind else TFRecords()
    return Shard(source, role, f"/data/{name}", 1, 0.0, f"{name}.parquet", content)


def commit(folder, shard, rows):
    """Commits rows (index, partner, digest, score); other detectors have no scores."""
    values = {
        "shard": [shard.path] * len(rows),
        "index": [row[0] for row in rows],
        "id": ["x"] * len(rows),
        "prediction": [row[0] % 3 for row in rows],
        "partner": [row[1] for row in rows],
        "image_digest": [row[2] for row in rows],
        CELL: [row[3] for row in rows],
    }
    columns = [
        pa.array(values[column.name], column.type) if column.name in values else pa.nulls(len(rows), column.type)
        for column in SETTINGS.schema
    ]
    with scores_file.ScoresWriter(str(folder), shard, SETTINGS.schema) as writer:
        writer.write(pa.record_batch(columns, SETTINGS.schema), [])
        writer.commit(scores_file.fingerprint(SETTINGS.identity(), shard), len(rows), "linear", SETTINGS.identity())


def test_images_made_of_the_same_originals_are_in_one_block_and_one_half(tmp_path):
    a, b = shard("a"), shard("b")
    made = shard("a", "surrogate_averages", "surrogate", "averages")
    patches = shard("a", "surrogate_patches", "surrogate", "patches")
    commit(tmp_path, a, [(0, None, 10, 0.0), (1, None, 11, 0.1), (2, None, 12, 0.2), (3, None, 13, 0.3)])
    commit(tmp_path, b, [(0, None, 10, 1.0), (2, None, 21, 1.2)])
    # The average of images 0 and 2, which is named after the second.
    commit(tmp_path, made, [(2, 0, 12, 5.0)])
    commit(tmp_path, patches, [(1, None, 11, 6.1), (2, None, 12, 6.2)])
    inside, outside = read_grid_scores(str(tmp_path), SETTINGS, [a, b, made, patches], [CELL, "gen"])

    assert inside.columns[CELL].tolist() == [0.0, 0.1, 0.2, 0.3, 1.0, 1.2]
    assert np.isnan(inside.columns["gen"]).all()
    first, second, third, *_ = inside.blocks.tolist()
    assert first == third
    assert len(set(inside.blocks.tolist())) == 5
    assert outside["surrogate_averages"].blocks.tolist() == [first]
    assert outside["surrogate_patches"].blocks.tolist() == [second, third]

    even, odd = inside.half(0), inside.half(1)
    assert even.columns[CELL].tolist() == [0.0, 0.2, 1.0]
    assert odd.columns[CELL].tolist() == [0.1, 0.3, 1.2]
    assert odd.predictions.tolist() == [1, 0, 2]
    assert outside["surrogate_patches"].half(0).columns[CELL].tolist() == [6.2]


def test_a_source_without_scores_is_left_out(tmp_path):
    a, empty = shard("a"), shard("b", "foreign", "out_distribution")
    commit(tmp_path, a, [(0, None, 10, 0.0)])
    commit(tmp_path, empty, [])
    inside, outside = read_grid_scores(str(tmp_path), SETTINGS, [a, empty], [CELL])
    assert (len(inside), outside) == (1, {})
