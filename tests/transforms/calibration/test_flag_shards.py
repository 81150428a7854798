"""Which images are flagged, and what is said of it."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from odin_beam.transforms import errors
from odin_beam.transforms.calibration import flag_shards, flags_summary
from odin_beam.transforms.calibration.conformal import CalibrationScores
from odin_beam.transforms.calibration.expected_flags import unlike_at_least
from odin_beam.transforms.calibration.flag_rule import FlagRule
from odin_beam.transforms.calibration.flag_shards import flag_rows
from odin_beam.transforms.calibration.flags_summary import FlagCounts, FlagFacts, flag_figures
from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.tables import schemas, scores_file
from odin_beam.transforms.tables.layout import flags_path, scores_path
from tests.helpers import samples


def calibration(*scores) -> CalibrationScores:
    return CalibrationScores.of(ScoreHistogram.of(np.array(scores, np.float64)))


def rows(scores, predictions=None) -> pa.Table:
    n = len(scores)
    kept = [field for field in schemas.FLAG_SCHEMA if field.name in schemas.SCORE_SCHEMA.names]
    columns = {"shard": ["s"] * n, "index": list(range(n)), "id": [f"s__{i}" for i in range(n)]}
    columns |= {"uri": [f"s#{i}" for i in range(n)], "label": [7] * n, "prediction": predictions or [0] * n}
    columns |= {"class_name": ["cat"] * n, "msp": scores}
    return pa.table(columns, schema=pa.schema([*kept, ("msp", pa.float64())]))


IDENTITY = {"temperature": 1.0}
TEN = calibration(*range(1, 11))


def test_flags_repeat_what_tells_which_image_it_is():
    batch, _ = flag_rows(FlagRule("msp", TEN, {}, tpr=0.9), rows([0.5, 50], [1, 2]), None)
    said = {name: batch.column(name).to_pylist() for name in ("id", "uri", "label", "prediction", "class_name")}
    assert said == {
        "id": ["s__0", "s__1"],
        "uri": ["s#0", "s#1"],
        "label": [7, 7],
        "prediction": [1, 2],
        "class_name": ["cat", "cat"],
    }


def test_below_the_threshold_is_flagged_and_at_it_is_not():
    # 9 of 10 calibration scores are at or above 2.
    batch, counts = flag_rows(FlagRule("msp", TEN, {}, tpr=0.9), rows([0.5, 1.999, 2.0, 2.001, 50]), None)
    assert batch["is_ood"].to_pylist() == [True, True, False, False, False]
    assert batch["p_value"].to_pylist() == pytest.approx([1 / 11, 2 / 11, 3 / 11, 3 / 11, 1])
    assert (counts.images, counts.flagged, counts.without_score) == (5, 2, 0)


def test_images_without_a_score_have_no_flag_and_count_apart():
    batch, counts = flag_rows(FlagRule("msp", TEN, {}, tpr=0.9), rows([None, 0.0, None]), None)
    assert batch["is_ood"].to_pylist() == [None, True, None]
    assert batch["p_value"].null_count == batch["score"].null_count == 2
    assert counts == FlagCounts(0, 3, 2, 1)
    assert counts.share == 1


def test_a_class_with_scores_of_its_own_has_a_threshold_of_its_own():
    rule = FlagRule("msp", TEN, {3: calibration(*range(101, 111))}, tpr=0.9)
    batch, counts = flag_rows(rule, rows([50.0, 50.0, 1.0, 105.0], [3, 0, 0, 3]), None)
    assert counts.class_images == {3: 2}
    assert batch["is_ood"].to_pylist() == [True, False, True, False]
    assert batch["p_value"].to_pylist() == pytest.approx([1 / 11, 1, 2 / 11, 6 / 11])


def test_without_scores_for_the_other_classes_their_images_have_no_flag():
    rule = FlagRule("msp", None, {3: calibration(*range(101, 111))}, tpr=0.9)
    batch, counts = flag_rows(rule, rows([50.0, 0.0, None, 105.0], [3, 0, 3, 3]), None)
    assert batch["is_ood"].to_pylist() == [True, None, None, False]
    assert batch["score"].to_pylist() == [50.0, 0.0, None, 105.0]
    assert batch["p_value"].null_count == 2
    assert (counts.without_score, counts.without_calibration, counts.judged, counts.share) == (1, 1, 2, 0.5)
    assert [group.images for group in rule.groups(counts.judged, counts.class_images)] == [2]
    rule = FlagRule("msp", None, rule.by_class, fdr=0.1)
    found = flags_summary.Discoveries(2, 0.0)
    said = flags_summary.flags_summary(rule, {"a": "input"}, FlagFacts(), "s", {"a": counts}, [], found)
    assert said["rule"]["smallest_possible_p_value"] == pytest.approx(1 / 11)


@pytest.mark.parametrize("calibration_images", [100, 266, 1000])
@pytest.mark.parametrize("images", [2, 7, 213, 500])
def test_images_are_unlike_exactly_where_flags_are_more_than_chance(calibration_images, images):
    rule = FlagRule("msp", calibration(*np.arange(calibration_images * 1.0)), {}, tpr=0.95)
    found = [flag_figures(rule, FlagCounts(1, images, 0, flagged)) for flagged in range(min(images, 90) + 1)]
    assert "more" in {own["verdict"] for own in found}
    assert [own["unlike_at_least"] > 0 for own in found] == [own["verdict"] == "more" for own in found]
    if (calibration_images, images) == (266, 500):
        # The one-sided bound alone would be 4 at the upper end of the interval.
        groups = rule.groups(images, {})
        assert [unlike_at_least(groups, flagged) for flagged in (41, 42, 45, 46)] == [0, 1, 4, 5]
        assert [found[flagged]["unlike_at_least"] for flagged in (41, 42, 45, 46)] == [0, 0, 0, 5]


def test_clustered_flags_within_their_interval_claim_nothing():
    rule = FlagRule("msp", calibration(*np.arange(266.0)), {}, tpr=0.95)
    parts = [FlagCounts(0, 100, 0, flagged).of_one_shard() for flagged in (0, 0, 43, 0, 0)]
    own = flag_figures(rule, flags_summary.add_up_flags(parts))
    assert own["verdict"] == "as_expected"
    assert own["clustered"]["false_flags_high"] > own["false_flags_high"] >= 43
    assert own["unlike_at_least"] == own["clustered"]["unlike_at_least"] == 0


def test_with_a_largest_p_value_the_threshold_does_not_count():
    rule = FlagRule("msp", TEN, {}, fdr=0.1)
    batch, _ = flag_rows(rule, rows([0.0, 1.0, 2.0]), 2 / 11)
    assert batch["is_ood"].to_pylist() == [True, True, False]
    assert not any(flag_rows(rule, rows([0.0, 1.0]), 0.0)[0]["is_ood"].to_pylist())


def test_false_discoveries_are_counted_over_the_sources_of_unknown_role():
    assert flags_summary.archive_sources({"a": "in_distribution", "b": "input", "c": "input"}) == ["b", "c"]
    assert flags_summary.archive_sources({"a": "in_distribution", "b": "out_distribution"}) == ["a", "b"]


@pytest.fixture
def scored(tmp_path):
    """A shard with 150,000 rows in three row groups, and its run's folder."""
    samples.write_shard(tmp_path / "a.tfrecord", [b"x"])
    shard, output = samples.shard(tmp_path / "a.tfrecord"), str(tmp_path / "out")
    count = 150_000
    columns = {
        "shard": [shard.path] * count,
        "index": np.arange(count),
        "id": np.arange(count).astype(str),
        "prediction": np.arange(count) % 7,
        "msp": np.random.default_rng(0).random(count),
    }
    table = pa.table(
        {
            field.name: pa.array(columns[field.name], field.type)
            if field.name in columns
            else pa.nulls(count, field.type)
            for field in schemas.SCORE_SCHEMA
        },
        schema=schemas.SCORE_SCHEMA,
    )
    with scores_file.ScoresWriter(output, shard) as writer:
        for batch in table.to_batches(max_chunksize=10_000):
            writer.write(batch, [])
        writer.commit(scores_file.fingerprint(IDENTITY, shard), count, "linear", {})
    return output, shard


def test_a_shard_gives_one_row_per_image_in_order(scored):
    output, shard = scored
    rule = FlagRule("msp", calibration(*np.linspace(0, 1, 1000)), {}, tpr=0.95)
    counts = flag_shards.flag_shard(output, shard, rule, None, IDENTITY)
    table = pq.read_table(flags_path(output, shard), partitioning=None)
    assert table.schema.equals(schemas.FLAG_SCHEMA)
    assert table["index"].to_pylist() == list(range(150_000))
    assert (counts.shards, counts.images, counts.flagged) == (1, 150_000, table["is_ood"].to_numpy().sum())
    assert counts.share == pytest.approx(0.05, abs=0.003)
    assert (counts.judged_shards, counts.squares) == (1, pytest.approx(counts.flagged**2 / 150_000))
    said = json.loads(pq.read_metadata(flags_path(output, shard)).metadata[scores_file.METADATA_KEY])
    assert said == {"detector": "msp", "tpr": 0.95, "fdr": None, "largest_p_value": None}


def test_scores_that_cannot_be_read_to_their_end_leave_no_flags(scored, tmp_path):
    output, shard = scored
    path = scores_path(output, shard)
    with open(path, "r+b") as file:
        file.seek(1_000_000)
        file.write(bytes(500_000))
    with pytest.raises(StorageError, match=r"a\.tfrecord"):
        flag_shards.flag_shard(output, shard, FlagRule("msp", TEN, {}, tpr=0.9), None, IDENTITY)
    assert not list(tmp_path.glob("out/flags/**/*.parquet"))
    assert not list(tmp_path.glob("out/odin-beam-tmp/*"))


def test_flags_that_cannot_be_written_are_an_output_error(scored, tmp_path):
    output, shard = scored
    (tmp_path / "out/flags").write_text("in the way")
    with pytest.raises(errors.OutputError, match="cannot write to"):
        flag_shards.flag_shard(output, shard, FlagRule("msp", TEN, {}, tpr=0.9), None, IDENTITY)


def test_the_summary_knows_realised_rates_where_roles_are_known():
    roles = {"known": "in_distribution", "foreign": "out_distribution", "photos": "input", "none": "input"}
    counts = {
        "known": FlagCounts(1, 100, 0, 4),
        "foreign": FlagCounts(1, 50, 10, 30),
        "photos": FlagCounts(2, 10, 0, 10),
    }
    facts = FlagFacts({"images": 10}, per_class=False, launched=0.0)
    said = flags_summary.flags_summary(FlagRule("msp", TEN, {}, tpr=0.9), roles, facts, "s", counts, [], None)
    assert said["sources"]["known"]["realised_tpr"] == pytest.approx(0.96)
    assert said["sources"]["foreign"]["realised_fpr"] == pytest.approx(0.25)
    assert said["sources"]["photos"]["share"] == 1
    assert "realised_tpr" not in said["sources"]["photos"]
    # k = 9 of n = 10 at or above the threshold: 2 / 11 of new images are expected below it.
    assert said["sources"]["photos"]["false_flags"] == pytest.approx(10 * 2 / 11)
    assert (said["sources"]["photos"]["false_flags_low"], said["sources"]["photos"]["false_flags_high"]) == (0, 6)
    assert said["sources"]["none"]["share"] is None
    assert said["rule"]["threshold"] == 2
    assert said["complete"]


def test_where_all_roles_are_known_the_share_of_false_discoveries_is_said():
    roles = {"known": "in_distribution", "foreign": "out_distribution"}
    counts = {"known": FlagCounts(1, 100, 0, 5), "foreign": FlagCounts(1, 100, 0, 45)}
    facts = FlagFacts({"images": 10}, per_class=False, launched=0.0)
    found = flags_summary.Discoveries(200, 0.2)
    said = flags_summary.flags_summary(FlagRule("msp", TEN, {}, fdr=0.1), roles, facts, "s", counts, [], found)["rule"]
    assert (
        flags_summary.flags_summary(FlagRule("msp", TEN, {}, fdr=0.1), roles, facts, "s", counts, [], found)["sources"][
            "known"
        ]["false_flags_high"]
        is None
    )
    assert said["false_discovery_share"] == pytest.approx(0.1)
    assert said["smallest_possible_p_value"] == pytest.approx(1 / 11)
    assert (said["flagged"], said["images"]) == (50, 200)
