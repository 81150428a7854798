r"""How time and memory grow with the archive, under a classifier so small that the pipeline is all there is.

    PYTHONPATH=. python benchmarks/growth.py --images 1000,10000,100000,1000000
    PYTHONPATH=. python benchmarks/growth.py --images 100000 --shards 1,10,100,1000

The embedded Fashion-MNIST images, over and over, as 28 x 28 PNG in TFRecord shards; average pooling and a dense layer
as the classifier. A line per archive, medians of runs of `score`, each in a process of its own: seconds in all, images
per second between the first and the last commit, peak memory of the process, and the microseconds that each image takes
by which the archive is larger than that of the line before. Where time is linear, that is one figure on all lines; it
means little on the first ones, where start-up varies by more than the images take.
"""

import argparse
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras

from odin_beam.transforms.shards import framing
from odin_beam.transforms.tables import scores_file

DATA = Path(__file__).resolve().parents[1] / "pipeline" / "demo_data"
IMAGES_PER_SHARD = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="1000,10000,100000", help="numbers of images (default: %(default)s)")
    parser.add_argument("--shards", help=f"numbers of shards (default: one for every {IMAGES_PER_SHARD:,} images)")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each (default: %(default)s)")
    arguments = parser.parse_args()
    print(
        f"{'images':>10}{'shards':>8}{'seconds':>10}{'images/s':>10}{'steady':>10}{'peak MB':>9}{'us/further':>12}",
        flush=True,
    )
    before = None
    for images in map(int, arguments.images.split(",")):
        counts = arguments.shards or str(max(1, images // IMAGES_PER_SHARD))
        for shards in map(int, counts.split(",")):
            seconds, steady, peak = measure(images, shards, arguments.rounds)
            rate = f"{steady:,.0f}" if steady else "-"
            further = "-"
            if before and before[0] < images:
                further = f"{1e6 * (seconds - before[1]) / (images - before[0]):.1f}"
            print(
                f"{images:>10,}{shards:>8,}{seconds:>10.1f}{images / seconds:>10,.0f}{rate:>10}{peak:>9.0f}"
                f"{further:>12}",
                flush=True,
            )
            before = images, seconds


def measure(images: int, shards: int, rounds: int) -> tuple[float, float | None, float]:
    """Medians of `score` on an archive of so many images and shards."""
    with tempfile.TemporaryDirectory() as folder:
        make_archive(Path(folder), images, shards)
        runs = []
        for _ in range(rounds):
            shutil.rmtree(f"{folder}/out", ignore_errors=True)
            runs.append(score(Path(folder)))
    seconds, steady, peak = zip(*runs, strict=True)
    rates = [rate for rate in steady if rate]
    return statistics.median(seconds), statistics.median(rates) if rates else None, statistics.median(peak)


def make_archive(folder: Path, images: int, shards: int) -> None:
    """So many images in so many shards of about the same size, and a classifier."""
    paths = sorted(DATA.glob("fashion_mnist-*.tfrecord"))
    known = [framing.frame(record.payload) for path in paths for record in framing.read_file(str(path))]
    supply = itertools.cycle(known)
    for i in range(shards):
        count = images * (i + 1) // shards - images * i // shards
        with open(folder / f"in-{i:05d}.tfrecord", "wb") as stream:
            stream.writelines(itertools.islice(supply, count))
    inputs = keras.Input((28, 28, 1))
    outputs = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(inputs))
    keras.Model(inputs, outputs).save(folder / "tiny.keras")


def score(folder: Path) -> tuple[float, float | None, float]:
    """Seconds in all, images per second after the first shard (None of one shard), and peak memory in MB."""
    command = [sys.executable, "-m", "odin_beam", "score", f"--model={folder}/tiny.keras", f"--output={folder}/out"]
    command += [f"--input=photos={folder}/in-*.tfrecord", "--batch_size=256"]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    if status:
        raise SystemExit(f"{' '.join(command)} failed: {errors}")
    return seconds, steady_rate(folder / "out"), usage.ru_maxrss / 1024


def steady_rate(output: Path, processes: int = 1) -> float | None:
    """Images per second between the first commit and the last one; None where there is nothing between.

    Args:
      output: of a run that is over.
      processes: that it had; the first commit of each is left out.
    """
    commits = sorted((path.stat().st_mtime, path) for path in output.glob("scores/*/*.parquet"))
    if len(commits) <= processes:
        return None
    images = sum(scores_file.read_commit(str(path)).scored for _, path in commits[processes:])
    return images / (commits[-1][0] - commits[processes - 1][0])


if __name__ == "__main__":
    main()
