"""`odin-beam ingest` on TFRecords, and how many shards there may be."""

import gzip

import numpy as np
import pytest
import tensorflow as tf

from odin_beam.transforms import errors
from odin_beam.transforms.ingest import reshard
from odin_beam.transforms.ingest.output_names import OutputNames
from odin_beam.transforms.shards import framing
from tests.helpers import samples
from tests.helpers.ingest_runs import folder, ingest, names, rejected, shard_paths, usage_error


def test_another_number_of_shards_under_a_prefix_is_refused(tmp_path, capsys):
    photos, prefix = folder(tmp_path / "photos"), tmp_path / "out" / "p"
    assert ingest(photos, prefix, 2) == 0
    capsys.readouterr()
    assert ingest(photos, prefix, 3) == 2
    assert f"remove {prefix}-*-of-00002.tfrecord, or choose another --output" in usage_error(capsys)
    assert len(shard_paths(prefix)) == 2
    assert ingest(photos, f"{prefix}2", 3) == 0


def test_tfrecords_and_images_do_not_mix(tmp_path, capsys):
    photos = folder(tmp_path / "photos")
    shard = samples.write_shard(tmp_path / "a.tfrecord", [b"x"])
    assert ingest([photos, shard], tmp_path / "out" / "p") == 2
    assert "give either images or TFRecords" in usage_error(capsys)
    (tmp_path / "classes.txt").write_text("cat\n")
    assert ingest(shard, tmp_path / "out" / "p", 1, f"--class_names={tmp_path / 'classes.txt'}") == 2
    assert "--class_names goes with images" in usage_error(capsys)


def payloads(prefix):
    return list(tf.data.TFRecordDataset(shard_paths(prefix)).as_numpy_iterator())


def test_reshard_copies_payloads_untouched_and_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reshard, "MARK_BYTES", 100)
    rng = np.random.default_rng(0)
    made = [rng.bytes(int(size)) for size in rng.integers(0, 90, 100)]
    samples.write_shard(tmp_path / "in" / "a.tfrecord", made[:40])
    samples.write_shard(tmp_path / "in" / "b.tfrecord.gz", made[40:45])
    samples.write_shard(tmp_path / "in" / "c.tfrecord-00000-of-00002", made[45:90])
    samples.write_shard(tmp_path / "in" / "c.tfrecord-00001-of-00002", made[90:])
    samples.write_shard(tmp_path / "in" / "d.tfrecords", [])
    (tmp_path / "in" / ".DS_Store").write_bytes(b"")
    for shards in (1, 7, 130):
        prefix = tmp_path / f"out{shards}" / "p"
        assert ingest(tmp_path / "in", prefix, shards) == 0
        assert payloads(prefix) == made
        assert len(shard_paths(prefix)) == shards
    assert "100 records" in capsys.readouterr().out
    assert names(tmp_path / "out7")[-1] == "p-summary.json"
    sizes = [sum(1 for _ in framing.read_file(path)) for path in shard_paths(tmp_path / "out7" / "p")]
    assert max(sizes) - min(sizes) <= 1


def test_reshard_leaves_out_bad_records_and_names_them(tmp_path, capsys):
    made = [bytes([i]) * 50 for i in range(30)]
    good = samples.write_shard(tmp_path / "in" / "a.tfrecord", made[:10])
    flipped = bytearray(good.read_bytes())
    flipped[3 * 66 + 20] ^= 1
    good.write_bytes(flipped)
    samples.write_shard(tmp_path / "in" / "b.tfrecord", made[10:20])
    assert ingest(tmp_path / "in", tmp_path / "out" / "p", 3) == 0
    assert payloads(tmp_path / "out" / "p") == made[:3] + made[4:20]
    assert rejected(tmp_path / "out" / "p") == {"a.tfrecord__3": "bad payload checksum: 50 bytes"}
    assert "rejected: 1" in capsys.readouterr().out
    cut = samples.write_shard(tmp_path / "in" / "c.tfrecord.gz", made[20:])
    cut.write_bytes(gzip.compress(gzip.decompress(cut.read_bytes())[: 4 * 66 + 30]))
    assert ingest(tmp_path / "in", tmp_path / "out2" / "p", 3) == 3
    assert payloads(tmp_path / "out2" / "p") == made[:3] + made[4:24]
    assert list(rejected(tmp_path / "out2" / "p")) == ["a.tfrecord__3", "c.tfrecord.gz__4"]


def test_reshard_onto_its_own_input_is_a_usage_error(tmp_path, capsys):
    samples.write_shard(tmp_path / "p-00000-of-00001.tfrecord", [b"x"])
    assert ingest(tmp_path / "p-*.tfrecord", tmp_path / "p", 1) == 2
    assert "choose another --output" in usage_error(capsys)
    assert len(list(framing.read_file(str(tmp_path / "p-00000-of-00001.tfrecord")))) == 1


def test_a_shard_that_changes_after_the_count_stops_the_run(tmp_path):
    path = samples.write_shard(tmp_path / "a.tfrecord", [b"1", b"2", b"3"])
    scan = reshard.scan_file(0, str(path))
    samples.write_shard(path, [b"1"])
    with pytest.raises(errors.StorageError, match="has changed"):
        reshard.copy_range(0, [scan], OutputNames(str(tmp_path / "out" / "p"), 1))
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
