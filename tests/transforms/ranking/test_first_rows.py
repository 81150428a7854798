"""Which rows come first, and which by chance."""

import numpy as np
import pyarrow as pa
import pytest

from odin_beam.transforms.metrics.extreme_rows import keep_first
from odin_beam.transforms.ranking.first_rows import (
    HIGHEST,
    LOWEST,
    RANDOM,
    Ranking,
    first_rows,
    merged,
    random_keys,
)
from odin_beam.transforms.shards.contents.tfrecords import TFRecords
from odin_beam.transforms.shards.shard import Shard

SCHEMA = {"index": pa.int64(), "offset": pa.int64(), "id": pa.string(), "uri": pa.string(), "label": pa.int64()}


def shard(name="a"):
    return Shard("photos", "input", f"/data/{name}", 10, 0.0, f"{name}.parquet", TFRecords())


def scores(values, predictions=None, start=0):
    count = len(values)
    indexes = list(range(start, start + count))
    return pa.table(
        {
            "index": pa.array(indexes, pa.int64()),
            "offset": pa.nulls(count, pa.int64()),
            "id": [f"i{index}" for index in indexes],
            "uri": pa.nulls(count, pa.string()),
            "label": pa.nulls(count, pa.int64()),
            "prediction": pa.array(predictions or [0] * count, pa.int32()),
            "class_name": pa.nulls(count, pa.string()),
            "gen": pa.array(values, pa.float32()),
        }
    )


def flags(p_values, is_ood):
    return pa.table({"p_value": pa.array(p_values, pa.float64()), "is_ood": pa.array(is_ood, pa.bool_())})


def ids(ranking, table, judged=None):
    return [row["id"] for row in merged(ranking, first_rows(ranking, table, judged, shard()))]


def ranking(order=LOWEST, count=3, **more):
    return Ranking("gen", order, count, ("photos",), **more)


def test_the_lowest_come_first_or_the_highest_and_rows_without_a_score_never():
    table = scores([3.0, None, -1.0, 2.0, 9.0])
    assert ids(ranking(), table) == ["i2", "i3", "i0"]
    assert ids(ranking(HIGHEST), table) == ["i4", "i0", "i3"]
    assert ids(ranking(count=10), table) == ["i2", "i3", "i0", "i4"]


def test_ties_are_in_the_order_of_rows():
    assert ids(ranking(), scores([1.0] * 9)) == ["i0", "i1", "i2"]


def test_one_class_alone():
    assert ids(ranking(prediction=7), scores([3.0, 2.0, 1.0], [7, 0, 7])) == ["i2", "i0"]


def test_p_values_come_before_scores():
    """They differ in order where classes are calibrated apart."""
    judged = flags([0.5, 0.01, 0.01, None], [False, True, True, None])
    assert ids(ranking(count=4, flagged=True), scores([-9.0, 5.0, 4.0, -99.0]), judged) == ["i2", "i1", "i0", "i3"]
    assert ids(ranking(HIGHEST, 2, flagged=True), scores([-9.0, 5.0, 4.0, -99.0]), judged) == ["i0", "i1"]


def test_rows_say_where_they_are_and_what_was_found():
    row = merged(ranking(), first_rows(ranking(), scores([1.0]), flags([0.25], [False]), shard()))[0]
    assert (row["source"], row["shard"], row["index"], row["score"]) == ("photos", "/data/a", 0, 1.0)
    assert (row["p_value"], row["is_ood"]) == (0.25, False)


@pytest.mark.parametrize("order", [LOWEST, HIGHEST])
def test_parts_give_what_the_whole_gives(order):
    values = np.random.default_rng(0).integers(0, 50, 300).astype(float)
    wanted = ranking(order, 40)
    parts = [
        first_rows(wanted, scores(values[start : start + 60], start=start), None, shard())[order]
        for start in range(0, 300, 60)
    ]
    whole = first_rows(wanted, scores(values), None, shard())[order]
    assert keep_first([keep_first(parts[:2], 40), *parts[2:]], 40) == whole


def sampled(count, is_ood, salt=""):
    wanted = ranking(RANDOM, count, flagged=True, salt=salt)
    return ids(wanted, scores([0.0] * len(is_ood)), flags([0.5] * len(is_ood), is_ood))


def test_a_sample_is_half_flagged_and_a_larger_one_contains_it():
    is_ood = [index % 10 == 0 for index in range(1000)]
    small, large = sampled(20, is_ood), sampled(60, is_ood)
    assert sum(int(name[1:]) % 10 == 0 for name in small) == 10
    assert set(small) < set(large)
    assert sampled(20, is_ood, "other") != small


def test_a_stratum_with_too_few_images_is_not_filled_up_by_the_other():
    assert len(sampled(20, [True] * 3 + [False] * 100)) == 13
    assert len(sampled(20, [False] * 100)) == 10


def test_images_without_a_verdict_are_not_sampled():
    assert sampled(20, [None] * 5) == []


def test_random_keys_are_uniform_and_differ_between_shards():
    keys = random_keys(shard(), np.arange(20_000))
    assert len(set(keys.tolist())) == 20_000
    counts = np.histogram(keys.astype(np.float64) / 2.0**64, 20, (0, 1))[0]
    # Chi square with 19 degrees of freedom exceeds 43.8 with probability 0.001.
    assert np.sum((counts - 1000) ** 2 / 1000) < 43.8
    assert not set(keys.tolist()) & set(random_keys(shard("b"), np.arange(20_000)).tolist())
