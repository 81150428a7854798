r"""How time and memory of a fit's statistics grow with the images: from committed features to `reference.npz`.

    PYTHONPATH=. python benchmarks/fit_growth.py --images 1000,10000,100000

Features of a network as large as a ResNet-50 with ImageNet's classes, made up: a ReLU of noise around the mean of a
class. A line per number of images, each in a process of its own: seconds of each step, peak memory above what the
process has before the first one, and the largest sizes on disk.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

IMAGES_PER_SHARD = 2_500
STEPS = ("digests", "moments", "merge", "residuals", "reference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="1000,10000,100000", help="numbers of images (default: %(default)s)")
    parser.add_argument("--features", type=int, default=2048, help="D (default: %(default)s)")
    parser.add_argument("--classes", type=int, default=1000, help="K (default: %(default)s)")
    parser.add_argument("--bank", type=int, default=10_000, help="images in the bank (default: %(default)s)")
    parser.add_argument("--folder", default=None, help="for the features (default: a temporary one)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments.one, int(arguments.images), arguments)
        return
    header = "".join(f"{step + ' s':>13}" for step in STEPS)
    print(f"{'images':>10}{'groups':>8}{header}{'peak MB':>10}{'features MB':>13}{'reference MB':>14}", flush=True)
    for images in map(int, arguments.images.split(",")):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            sizes = [f"--{name}={getattr(arguments, name)}" for name in ("features", "classes", "bank")]
            command = [sys.executable, __file__, f"--one={folder}", f"--images={images}", *sizes]
            subprocess.run(command, check=True)


def measure(folder: str, images: int, arguments: argparse.Namespace) -> None:
    """Prints the line of one number of images."""
    from odin_beam.transforms.fitting.feature_rows import LastLayerWeights, read_last_layer, write_last_layer
    from odin_beam.transforms.fitting.fit_steps import MAX_GROUPS, FitSteps, read_residual_sum, read_subspace
    from odin_beam.transforms.fitting.reference import fit_reference
    from odin_beam.transforms.fitting.reference_file import write_reference

    rng = np.random.default_rng(0)
    means = rng.gamma(0.5, 1.0, (arguments.classes, arguments.features)).astype(np.float32)
    kernel = (means - means.mean(axis=0)).T / np.sqrt(arguments.features)
    write_last_layer(folder, LastLayerWeights(kernel.astype(np.float32), np.zeros(arguments.classes, np.float32)))
    shards = [
        write_features(folder, number, min(IMAGES_PER_SHARD, images - start), means, rng)
        for number, start in enumerate(range(0, images, IMAGES_PER_SHARD))
    ]
    steps = FitSteps(folder, {}, arguments.bank, 1_000_000, min(MAX_GROUPS, len(shards)))
    groups = {}
    for shard in shards:
        groups.setdefault(steps.group_of(shard), []).append(shard)
    # The job has TensorFlow in memory before it comes to this.
    import tensorflow as tf

    tf.zeros(1)
    before, seconds = resident(), []

    def timed(step):
        started = time.perf_counter()
        result = step()
        seconds.append(time.perf_counter() - started)
        return result

    with Peak() as peak:
        digests = timed(lambda: [steps.read_digests(*group) for group in groups.items()])
        sample = steps.choose_sample(digests)
        moments = timed(lambda: [steps.read_moments(*group, sample) for group in groups.items()])
        subspace = timed(lambda: steps.merge_moments(moments))
        residuals = timed(lambda: [steps.read_residuals(*group, sample, subspace) for group in groups.items()])

        def reference():
            sums = steps.merged()
            space, total = read_subspace(subspace), read_residual_sum(residuals)
            made = fit_reference(sums.moments, sums.histogram, sums.bank, read_last_layer(folder), space, total)
            write_reference(f"{folder}/reference.npz", made)

        timed(reference)
    sizes = [size(Path(folder) / "features"), size(Path(folder) / "reference.npz")]
    print(
        f"{images:>10,}{len(groups):>8}{''.join(f'{step:>13.1f}' for step in seconds)}"
        f"{(peak.highest - before) / 1e6:>10,.0f}{sizes[0]:>13,.0f}{sizes[1]:>14,.0f}",
        flush=True,
    )


def write_features(folder: str, number: int, images: int, means: np.ndarray, rng: np.random.Generator):
    """Commits the features of a made-up shard, as a run does."""
    import pyarrow as pa

    from odin_beam.transforms.shards.contents.tfrecords import TFRecords
    from odin_beam.transforms.shards.shard import Shard
    from odin_beam.transforms.tables import layout, scores_file
    from odin_beam.transforms.tables.schemas import features_schema

    classes, width = means.shape
    schema = features_schema(width)
    shard = Shard("s", "in_distribution", f"/{number}", images, 0.0, f"{number:05d}.parquet", TFRecords())
    labels = rng.integers(0, classes, images)
    features = np.maximum(means[labels] + rng.normal(0, 0.5, (images, width)), 0).astype(np.float32)
    columns = {
        "shard": [shard.path] * images,
        "index": np.arange(images),
        "id": [f"{number}__{index}" for index in range(images)],
        "uri": [f"{shard.path}#{index}" for index in range(images)],
        "image_digest": rng.integers(-(1 << 63), 1 << 63, images, dtype=np.int64),
        "label": labels,
        "prediction": labels.astype(np.int32),
    }
    arrays = [pa.array(column, schema.field(name).type) for name, column in columns.items()]
    arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), width))
    with scores_file.ScoresWriter(folder, shard, schema, layout.FEATURES) as writer:
        writer.write(pa.record_batch(arrays, schema=schema), [])
        writer.commit(scores_file.fingerprint({}, shard), images, "linear", {})
    return shard


def resident() -> float:
    """Memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


class Peak:
    """The most memory that this process had, sampled."""

    def __enter__(self) -> "Peak":
        self.highest, self._ended = resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._ended.wait(0.01):
            self.highest = max(self.highest, resident())

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join()


def size(path: Path) -> float:
    """Of a file or folder, in MB."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(os.stat(p).st_size for p in files) / 1e6


if __name__ == "__main__":
    main()
