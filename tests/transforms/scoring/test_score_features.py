"""Features of a run to scores of another, shard by shard."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from odin_beam.transforms.detectors.registry import ALL
from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.fitting.feature_rows import LastLayerWeights, write_last_layer
from odin_beam.transforms.scoring.feature_scorer import FeatureScorer
from odin_beam.transforms.scoring.score_features import KeptFeatures, score_features
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.contents.tfrecords import TFRecords
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables import layout, run_file, scores_file
from odin_beam.transforms.tables.schemas import SCORE_SCHEMA, features_schema

ROWS, WIDTH = 3000, 4000
SHARD = Shard("s", "input", "/absent.tfrecord", 1, 2.0, "absent-0.parquet", TFRecords())
FIRST = ScoreSettings("/absent.keras", "d", detectors=("odin", "msp"), kept_features="float16")
RNG = np.random.default_rng(0)
FEATURES = RNG.random((ROWS, WIDTH), np.float32).astype(np.float16)
LAYER = LastLayerWeights(RNG.normal(size=(WIDTH, 3)).astype(np.float32), np.arange(3, dtype=np.float32))


def write(folder, indexes):
    """What the first run leaves: scores in a row group, features in several."""
    kept = features_schema(WIDTH, "float16")
    with scores_file.ScoresWriter(folder, SHARD, features_schema=kept) as writer:
        for start in range(0, ROWS, 100):
            numbers = range(start, start + 100)
            rows = [
                {"shard": SHARD.path, "index": i, "id": f"i{i}", "prediction": 0, "odin": i / ROWS, "msp": 0.5}
                for i in numbers
            ]
            lists = pa.FixedSizeListArray.from_arrays(pa.array(FEATURES[start : start + 100].ravel()), WIDTH)
            columns = {
                "shard": [SHARD.path] * 100,
                "index": [indexes[i] for i in numbers],
                "id": [f"i{i}" for i in numbers],
                "uri": [f"{SHARD.path}#{i}" for i in numbers],
                "image_digest": list(numbers),
                "label": [None] * 100,
                "prediction": [0] * 100,
                "features": lists,
            }
            arrays = [
                value if isinstance(value, pa.Array) else pa.array(value, kept.field(name).type)
                for name, value in columns.items()
            ]
            features = pa.record_batch(arrays, schema=kept)
            reject = {"index": ROWS, "offset": None, "id": "r", "reason": "no_image", "detail": "none"}
            rejects = [reject] if start + 100 == ROWS else []
            writer.write(pa.RecordBatch.from_pylist(rows, SCORE_SCHEMA), rejects, features)
        identity = FIRST.identity()
        writer.commit(scores_file.fingerprint(identity, SHARD), ROWS + 1, "linear", identity)
    write_last_layer(folder, LAYER)
    return KeptFeatures(folder, identity)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    return write(str(tmp_path_factory.mktemp("kept")), range(ROWS))


def settings(kept):
    return ScoreSettings(
        "/absent.keras", "d", detectors=("odin", "msp", "energy", "grad_norm"), features_run=kept.digest
    )


def test_rows_of_unequal_groups_stay_together(kept, tmp_path):
    path = layout.rows_path(kept.folder, SHARD, layout.FEATURES)
    assert pq.ParquetFile(path).num_row_groups == 2
    now, output = settings(kept), str(tmp_path)
    run_file.claim(output, now)
    commit = score_features(SHARD, FeatureScorer(now, kept.folder), now, kept, output)
    assert (commit.framed, commit.scored, commit.rejected, commit.head) == (ROWS + 1, ROWS, 1, "linear")
    table = pq.read_table(layout.scores_path(output, SHARD), partitioning=None)
    logits = FEATURES.astype(np.float64) @ LAYER.kernel + LAYER.bias
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(table["msp"], 1 / (p / p.max(axis=1, keepdims=True)).sum(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(table["odin"], np.arange(ROWS) / ROWS)
    assert table["id"].to_pylist() == [f"i{i}" for i in range(ROWS)]
    given = {"odin", "odin_logit", "msp", "energy", "grad_norm"}
    columns = {column for row in ALL.values() for column, _ in row.typed_columns}
    assert {name for name in columns - given if table[name].null_count < ROWS} == set()
    rejects = pq.read_table(layout.rejects_path(output, SHARD), partitioning=None).to_pylist()
    assert [(row["index"], row["reason"]) for row in rejects] == [(ROWS, "no_image")]


def test_features_of_other_images_are_refused(tmp_path):
    kept = write(str(tmp_path / "kept"), [*range(ROWS - 1), ROWS])
    now, output = settings(kept), str(tmp_path / "out")
    run_file.claim(output, now)
    with pytest.raises(StorageError, match="it is not of the images of the scores"):
        score_features(SHARD, FeatureScorer(now, kept.folder), now, kept, output)
    assert not (tmp_path / "out/scores").exists()


def test_what_needs_the_image_takes_more_than_features():
    assert {name for name, row in ALL.items() if not row.takes_features} == {"odin", "cam_var", "cam_max"}


def test_settings_enter_the_fingerprint_only_if_given(kept):
    plain = ScoreSettings("m", "d").identity()
    assert not {"kept_features", "features_run"} & plain.keys()
    assert ScoreSettings("m", "d", kept_features="float32").identity() == plain | {"kept_features": "float32"}
    assert kept.digest != KeptFeatures(kept.folder, plain).digest
    with pytest.raises(ValueError, match="kept_features is one of float32, float16, not 'float64'"):
        ScoreSettings("m", "d", kept_features="float64")
