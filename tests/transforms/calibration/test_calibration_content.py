"""The content of `calibration.json`, from committed rows."""

import json

import numpy as np
import pyarrow as pa
import pytest

from odin_beam.transforms.calibration.calibration_content import CalibrateSettings, calibration_content
from odin_beam.transforms.detectors.odin_settings import OdinGrid
from odin_beam.transforms.images.digest import half_of
from odin_beam.transforms.metrics.counts import Counts
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.contents.tfrecords import TFRecords
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables import scores_file

SETTINGS = ScoreSettings(
    "m.keras", "ab" * 32, odin=OdinGrid((1.0,), (0.0,)), detectors=("odin", "gen", "msp", "energy")
)
CALIBRATE = CalibrateSettings(SETTINGS, "auroc", False, False, "/calibration.json", None)
ROLES = {"known": "in_distribution", "foreign": "out_distribution"}
COUNT = 600


def commit(folder, source, shift, digests, without_energy=(), noise_in_half=None):
    """Commits rows whose scores lie around `shift`; those at some places have no energy, those of a half only noise."""
    rng = np.random.default_rng(len(source))
    scores = {name: rng.normal(shift, 1, COUNT) for name in ("odin_T1_eps0", "gen", "msp", "energy")}
    scores["energy"] += np.where(half_of(digests) == noise_in_half, -shift, 0.5 * shift)
    shard = Shard(source, ROLES[source], f"/data/{source}", 1, 0.0, f"{source}.parquet", TFRecords())
    values = {
        "shard": pa.array([shard.path] * COUNT),
        "index": pa.array(range(COUNT)),
        "id": pa.array(["x"] * COUNT),
        "prediction": pa.array([0] * COUNT, pa.int32()),
        "image_digest": pa.array(digests),
    } | {name: pa.array(column) for name, column in scores.items()}
    mask = np.isin(np.arange(COUNT), without_energy)
    values["energy"] = pa.array(scores["energy"], mask=mask)
    columns = [
        values[column.name].cast(column.type) if column.name in values else pa.nulls(COUNT, column.type)
        for column in SETTINGS.schema
    ]
    with scores_file.ScoresWriter(str(folder), shard, SETTINGS.schema) as writer:
        writer.write(pa.record_batch(columns, SETTINGS.schema), [])
        writer.commit(scores_file.fingerprint(SETTINGS.identity(), shard), COUNT, "linear", SETTINGS.identity())
    return shard


@pytest.fixture
def digests():
    return np.random.default_rng(0).integers(-(2**62), 2**62, COUNT)


def content(folder, shards):
    return calibration_content(str(folder), CALIBRATE, ROLES, {source: Counts() for source in ROLES}, shards)


def test_one_half_chooses_and_the_other_measures(tmp_path, digests):
    shards = [commit(tmp_path, "known", 1.0, digests), commit(tmp_path, "foreign", -1.0, digests)]
    made = content(tmp_path, shards)
    halves = np.bincount(half_of(digests))
    assert made["scores"]["gen"]["count"] == halves[1]
    assert made["recommendation"]["families"][0]["images"] == halves[0]
    assert made["recommendation"]["detector"] == "energy"
    gain = next(row for row in made["recommendation"]["comparisons"] if row["detector"] == "energy")
    low, high = gain["held_out_gain"][1:]
    assert 0 < low < gain["held_out_gain"][0] < high
    assert gain["held_out_gain"][0] != gain["gain"]


@pytest.mark.parametrize("half", [0, 1])
def test_a_detector_without_a_score_for_an_image_of_either_half_is_not_compared(tmp_path, digests, half):
    absent = [np.flatnonzero(half_of(digests) == half)[0]]
    shards = [commit(tmp_path, "known", 1.0, digests), commit(tmp_path, "foreign", -1.0, digests, absent)]
    made = content(tmp_path, shards)
    json.dumps(made, allow_nan=False)
    assert {row["detector"] for row in made["recommendation"]["comparisons"]} == {"odin", "msp"}
    # It keeps its thresholds.
    assert "energy" in made["scores"]


def test_a_choice_that_the_other_half_does_not_confirm_is_not_recommended(tmp_path, digests):
    shards = [
        commit(tmp_path, source, shift, digests, noise_in_half=1)
        for source, shift in (("known", 1.0), ("foreign", -1.0))
    ]
    made = content(tmp_path, shards)["recommendation"]
    assert made["detector"] == "gen"
    assert made["reason"] == "energy was better on the half that chooses, but not certainly on the other"
    assert made["comparisons"][0]["detector"] == "energy"
