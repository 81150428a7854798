"""Several worker processes on one machine, each with a classifier of its own."""

import pyarrow.dataset as ds

from odin_beam.pipeline.main import main
from tests.helpers import samples

ORDER = [("source", "ascending"), ("shard", "ascending"), ("index", "ascending")]


def test_two_processes_give_row_for_row_what_one_gives(tmp_path, capsys):
    model = samples.save_model(samples.small_model(), tmp_path / "small.keras")
    for i in range(6):
        images = samples.random_images(20 + i, seed=i)
        samples.write_shard(tmp_path / f"in-{i}.tfrecord", samples.examples(images, [i % 4] * len(images)))
    command = ["score", f"--model={model}", f"--in_distribution=known={tmp_path}/in-*"]
    assert main([*command, f"--output={tmp_path}/one"]) == 0
    processes = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    assert main([*command, f"--output={tmp_path}/two", *processes]) == 0
    assert "known: 135 images scored in 6 shards" in capsys.readouterr().out
    one, two = (
        ds.dataset(tmp_path / name / "scores", partitioning="hive").to_table().sort_by(ORDER) for name in ("one", "two")
    )
    assert one.num_rows == 135
    assert two.equals(one)
    assert (tmp_path / "two/metrics.json").read_text() == (tmp_path / "one/metrics.json").read_text()
    assert not (tmp_path / "two/odin-beam-tmp").exists()
