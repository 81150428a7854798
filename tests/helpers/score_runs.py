"""Runs of `score` on the archive of the fixture `archive`, and what they leave."""

import json
import os
import shutil
from pathlib import Path

import pyarrow.dataset

from odin_beam.transforms.detectors.registry import CLEAN_DETECTORS
from odin_beam.transforms.scoring import score_shards
from tests.helpers import samples

DETECTORS = ["odin", "odin_logit", *CLEAN_DETECTORS]


def command(model, archive, *more):
    return [
        "score",
        f"--model={model}",
        f"--output={archive}/out",
        f"--in_distribution=known={archive}/in-*.tfrecord",
        f"--out_distribution=foreign={archive}/out-*",
        f"--input={archive}/new-*.tfrecord",
        *more,
    ]


def restore(folder, copy):
    """The folder as the copy has it, with the times of all files, which a run goes by."""
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    return folder


def rows(output, folder="scores"):
    """All rows below a folder, in the order of (source, shard, index)."""
    table = pyarrow.dataset.dataset(f"{output}/{folder}", partitioning="hive").to_table()
    return sorted(table.to_pylist(), key=lambda r: (r["source"], r["shard"], r["index"]))


def everything(output):
    """The bytes of every file below a folder."""
    return {path: path.read_bytes() for path in Path(output).rglob("*") if path.is_file()}


def read(output, name):
    return json.loads((Path(output) / name).read_text())


def last_line(capsys):
    return capsys.readouterr().err.strip().splitlines()[-1]


def counted_shards(monkeypatch):
    """Paths that are really scored from now on."""
    paths, original = [], score_shards.score_shard

    def score_shard(shard, *rest):
        paths.append(os.path.basename(shard.path))
        return original(shard, *rest)

    monkeypatch.setattr(score_shards, "score_shard", score_shard)
    return paths


GOOD = samples.examples(samples.random_images(4))
