r"""How fast `flag` is, and what memory it takes: rows per second over scores that are made up.

    python benchmarks/flag_rows.py --rows 1000000,10000000

One table: for each number of rows, spread over shards of 10^5, the time of `flag --tpr 0.95` and of `flag --fdr 0.1`
in a process of its own, start included, and that process's peak memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from odin_beam.transforms.calibration.calibration_file import SHARED_SETTINGS, write_calibration
from odin_beam.transforms.calibration.conformal import CalibrationScores
from odin_beam.transforms.detectors import registry
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.shards.manifest_file import write_manifest
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables import schemas, scores_file
from odin_beam.transforms.tables.json_files import write_json
from odin_beam.transforms.tables.layout import scores_file_name

ROWS_PER_SHARD = 100_000
SETTINGS = {
    "model_digest": "made up",
    **dict.fromkeys(SHARED_SETTINGS),
    "preprocessing": {},
    "geometry": {},
    "odin": {"temperature": 1000.0, "epsilon": 0.0014},
    "detectors": list(registry.DETECTORS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1000000,10000000", help="numbers of rows (default: %(default)s)")
    print(f"{'rows':>12}{'rule':>12}{'seconds':>10}{'rows/s':>12}{'peak MB':>10}")
    for rows in map(int, parser.parse_args().rows.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            make_scores(Path(folder), rows)
            for rule in ("--tpr=0.95", "--fdr=0.1"):
                seconds, peak = flag(Path(folder), rule)
                print(f"{rows:>12,}{rule:>12}{seconds:>10.1f}{rows / seconds:>12,.0f}{peak:>10.0f}", flush=True)


def make_scores(folder: Path, rows: int) -> None:
    """A run's folder with so many rows, one in ten far below the others, and a calibration of 10,000 images."""
    random, shards = np.random.default_rng(0), []
    for first in range(0, rows, ROWS_PER_SHARD):
        path, count = f"{folder}/shard-{first}.tfrecord", min(ROWS_PER_SHARD, rows - first)
        shard = Shard("photos", "input", path, 1, 1.0, scores_file_name(path))
        shards.append(shard)
        scores = random.normal(np.where(random.random(count) < 0.1, -6.0, 0.0))
        made = {"shard": [path] * count, "index": np.arange(count), "prediction": np.arange(count) % 1000}
        made |= {"id": [f"shard-{first}.tfrecord__{i}" for i in range(count)], "odin": scores}
        made["uri"] = [f"{path}#{i}" for i in range(count)]
        columns = [
            pa.array(made[field.name], field.type) if field.name in made else pa.nulls(count, field.type)
            for field in schemas.SCORE_SCHEMA
        ]
        with scores_file.ScoresWriter(str(folder), shard) as writer:
            writer.write(pa.RecordBatch.from_arrays(columns, schema=schemas.SCORE_SCHEMA), [])
            writer.commit(scores_file.fingerprint(SETTINGS, shard), count, "linear", {})
    write_json(str(folder), "run.json", {"settings": SETTINGS})
    write_manifest(str(folder), shards)
    calibration = CalibrationScores.of(ScoreHistogram.of(random.normal(size=10_000)))
    sources = {"validation": {"role": "in_distribution"}}
    content = {"settings": SETTINGS, "sources": sources, "scores": {"odin": calibration.as_dict()}, "class_scores": {}}
    write_calibration(f"{folder}/calibration.json", content)


def flag(folder: Path, rule: str) -> tuple[float, float]:
    """Seconds and peak memory in MB of one run."""
    command = [sys.executable, "-m", "odin_beam", "flag", f"--scores={folder}", rule]
    command.append(f"--calibration={folder}/calibration.json")
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    if status:
        raise SystemExit(f"{' '.join(command)} failed: {errors}")
    found = json.loads((folder / "flags.json").read_text())["sources"]["photos"]
    print(f"{'':>12}{found['flagged']:,} of {found['images']:,} flagged", file=sys.stderr)
    return seconds, usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)


if __name__ == "__main__":
    main()
