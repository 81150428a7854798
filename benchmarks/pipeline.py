r"""What the pipeline around the kernel costs: the whole `score` job against bare decoding and against the bare kernel.

    PYTHONPATH=. python benchmarks/pipeline.py
    PYTHONPATH=. python benchmarks/pipeline.py --parts png,jpeg --rounds 7

Every job is `python -m odin_beam score` in a process of its own, and its rate is that of the steady state: images over
the time between commits of scores files, of which the first one (with two processes, the first two) only starts the
clock. What it is compared with is timed in the same round, just before or after, and shares are medians over the
rounds. The numbers of shards are even, or one of two processes would be idle while the other does the last one.

* `png`: CIFAR-10 as 32 x 32 PNG; the classifier is a dense layer on a few pixels, the detector `msp` alone: ODIN's
  three passes are no trifle beside decoding, however small the classifier. One process, then two.
* `png-odin`: the same with all detectors.
* `jpeg`: CIFAR-10 blown up to 500 x 375, with noise, as JPEG of quality 90; the classifier of `png` at 224 pixels. Bare
  decoding is `tf.io.decode_jpeg` and `tf.image.resize` in a pool of as many threads as there are cores, the results
  thrown away.
* `kernel`: DenseNet-BC-100-12 on 32 x 32 PNG against `ScoreFunction` on the same images in memory. One process, then
  two.

The time to the first score is that from the launch to the commit of a shard of a single batch. The time to load the
model is the part of it that a worker takes from the file to compiled graphs.
"""

import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks import networks
from benchmarks.growth import steady_rate
from benchmarks.speed import ROOT, ContenderProcess, commit, cpu_model, median_ratio, progress
from odin_beam.transforms.shards import framing

LOAD = """
import sys, time
from odin_beam.transforms.model.files import model_digest
from odin_beam.transforms.scoring.scorer import Scorer
from odin_beam.transforms.scoring.settings import ScoreSettings
started = time.perf_counter()
Scorer(ScoreSettings(sys.argv[1], model_digest(sys.argv[1])))
print(time.perf_counter() - started)
"""
TWO_PROCESSES = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
PHOTO_SIZE = (375, 500)
CLASSIFIER_SIZE = 224
KERNEL_BATCH = 64


@dataclass
class Part:
    """What one part measured, by round.

    Attributes:
      title: of the part.
      bare: what the job is compared with, and its images per second; None where there is nothing.
      one: images per second of the job in one process.
      two: likewise in two processes; empty where that was not timed.
      first: seconds to the first score.
      load: seconds to load the model.
    """

    title: str
    bare: tuple[str, list[float]] | None
    one: list[float] = field(default_factory=list)
    two: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="which to time (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    arguments = parser.parse_args()
    wanted = arguments.parts.split(",")
    if unknown := [name for name in wanted if name not in PARTS]:
        parser.error(f"unknown part {unknown[0]}; there are {', '.join(PARTS)}")
    print(f"commit {commit()}; {cpu_model()}, {os.cpu_count()} cores; medians of {arguments.rounds} rounds", flush=True)
    parts = []
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            parts.append(PARTS[name](Path(folder), arguments.rounds))
    print(results_text(parts), flush=True)


def time_png(folder: Path, rounds: int, title: str, *flags: str) -> Part:
    """Tiny images, no model to speak of."""
    pixels = (networks.cifar_images(10_000, 32) * 255).round().astype(np.uint8)
    write_shards(folder, [encoded(image, "PNG") for image in pixels], shards=8)
    trivial_classifier(32).save(folder / "network.keras")
    part, flags = Part(title, None), ("--batch_size=256", *flags)
    for i in range(rounds):
        part.one.append(run_job(folder, *flags))
        part.two.append(run_job(folder, *flags, *TWO_PROCESSES))
        tell(part, i)
    time_start(part, folder, rounds, *flags)
    return part


def time_jpeg(folder: Path, rounds: int) -> Part:
    """Photographs, a cheap model."""
    jpegs = photographs(512)
    write_shards(folder, jpegs * 3, shards=4)
    trivial_classifier(CLASSIFIER_SIZE).save(folder / "network.keras")
    part = Part("500x375 JPEG to 224x224, trivial classifier, msp alone", ("decoding and resizing alone", []))
    size = f"--image_size={CLASSIFIER_SIZE},{CLASSIFIER_SIZE}"
    bare_decoding(jpegs)
    for i in range(rounds):
        part.bare[1].append(bare_decoding(jpegs * 4))
        part.one.append(run_job(folder, "--detectors=msp", size))
        tell(part, i)
    time_start(part, folder, rounds, "--detectors=msp", size)
    return part


def time_kernel(folder: Path, rounds: int) -> Part:
    """A model that is worth its time."""
    images = networks.cifar_images(512, 32)
    np.save(folder / "images.npy", images)
    write_shards(folder, [encoded(image, "PNG") for image in (images * 255).round().astype(np.uint8)], shards=6)
    networks.densenet().save(folder / "network.keras")
    part = Part("32x32 PNG, DenseNet-BC-100-12", ("kernel alone", []))
    kernel = ContenderProcess("kernel", Path(sys.executable), folder, KERNEL_BATCH)
    kernel.start()
    batch = f"--batch_size={KERNEL_BATCH}"
    for i in range(rounds):
        before = kernel.seconds()
        part.one.append(run_job(folder, batch))
        part.bare[1].append(2 * len(images) / (before + kernel.seconds()))
        part.two.append(run_job(folder, batch, *TWO_PROCESSES))
        tell(part, i)
    kernel.stop()
    time_start(part, folder, rounds, batch)
    return part


PARTS: dict[str, Callable[[Path, int], Part]] = {
    "png": lambda folder, rounds: time_png(
        folder, rounds, "32x32 PNG, trivial classifier, msp alone", "--detectors=msp"
    ),
    "png-odin": lambda folder, rounds: time_png(folder, rounds, "32x32 PNG, trivial classifier, all detectors"),
    "jpeg": time_jpeg,
    "kernel": time_kernel,
}


def tell(part: Part, done: int) -> None:
    rates = {"bare": part.bare[1] if part.bare else [], "one process": part.one, "two": part.two}
    shown = ", ".join(f"{name} {values[-1]:,.1f}" for name, values in rates.items() if values)
    progress(f"{part.title}: round {done + 1}, images/s: {shown}")


def encoded(image: np.ndarray, image_format: str, **options) -> bytes:
    """An image file of uint8 [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, image_format, **options)
    return buffer.getvalue()


def photographs(count: int) -> list[bytes]:
    """JPEG files as large as photographs of ImageNet, with its noise but not its detail."""
    noise, made = np.random.default_rng(0), []
    for image in (networks.cifar_images(count, 32) * 255).round().astype(np.uint8):
        large = Image.fromarray(image).resize(PHOTO_SIZE[::-1], Image.Resampling.BICUBIC)
        noisy = np.asarray(large) + noise.normal(0, 8, (*PHOTO_SIZE, 3))
        made.append(encoded(np.clip(noisy, 0, 255).round().astype(np.uint8), "JPEG", quality=90))
    return made


def write_shards(folder: Path, images: Sequence[bytes], shards: int) -> None:
    """So many shards, each of all the images; and one of a single batch, for the first score."""
    framed = [framing.frame(_example(image)) for image in images]
    for i in range(shards):
        (folder / f"in-{i:02d}.tfrecord").write_bytes(b"".join(framed))
    (folder / "first.tfrecord").write_bytes(b"".join(framed[:KERNEL_BATCH]))


def _example(image: bytes) -> bytes:
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
    return tf.train.Example(features=tf.train.Features(feature={"image": feature})).SerializeToString()


def trivial_classifier(size: int) -> keras.Model:
    """A dense layer on 8 x 8 means of 2 x 2 pixels: to read all pixels once more would be no trifle beside decoding."""
    inputs = keras.Input((size, size, 3))
    pooled = keras.layers.AveragePooling2D(2, strides=size // 8)(inputs)
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.Flatten()(pooled)))


def run_job(folder: Path, *flags: str) -> float:
    """Images per second of the steady state of a job on all shards."""
    output = folder / "out"
    score(folder, "in-*.tfrecord", *flags)
    rate = steady_rate(output, 2 if flags[-2:] == TWO_PROCESSES else 1)
    shutil.rmtree(output)
    return rate


def time_start(part: Part, folder: Path, rounds: int, *flags: str) -> None:
    """Fills in the time to the first score, and the time to load the model."""
    for _ in range(rounds):
        started = time.time()
        score(folder, "first.tfrecord", *flags)
        committed = next((folder / "out").glob("scores/*/*.parquet")).stat().st_mtime
        part.first.append(committed - started)
        shutil.rmtree(folder / "out")
        part.load.append(float(run([sys.executable, "-c", LOAD, str(folder / "network.keras")]).strip()))


def score(folder: Path, pattern: str, *flags: str) -> None:
    """One job, into the folder's `out`."""
    command = [sys.executable, "-m", "odin_beam", "score", f"--model={folder}/network.keras", f"--output={folder}/out"]
    run([*command, f"--input=photos={folder}/{pattern}", *flags])


def run(command: Sequence[str]) -> str:
    """What a command says.

    Raises:
      SystemExit: it failed.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def bare_decoding(jpegs: Sequence[bytes]) -> float:
    """Images per second of TensorFlow's decoder and resizing in a thread for each core, the results thrown away."""

    def decode(data: bytes) -> None:
        image = tf.io.decode_jpeg(data, 3, dct_method="INTEGER_ACCURATE")
        tf.image.resize(image, (CLASSIFIER_SIZE, CLASSIFIER_SIZE))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        started = time.perf_counter()
        for _ in pool.map(decode, jpegs):
            pass
        return len(jpegs) / (time.perf_counter() - started)


def results_text(parts: Sequence[Part]) -> str:
    """The table: medians, spread, and shares of what was timed in the same round."""
    lines = [f"{'':<58}{'images/s':>10}{'min - max':>21}{'share':>8}"]
    for part in parts:
        lines.append(part.title)
        if part.bare:
            lines.append(row(part.bare[0], part.bare[1], None))
        lines.append(row("score job, one process", part.one, part.bare and median_ratio(part.one, part.bare[1])))
        if part.two:
            share = f"{median_ratio(part.two, part.one):.2f} x one process"
            lines.append(row("score job, two processes", part.two, None) + f"  {share}")
        first, load = (
            f"{statistics.median(one):.1f} s ({min(one):.1f} - {max(one):.1f})" for one in (part.first, part.load)
        )
        lines.append(f"  first score after {first}, of it the model {load}")
    return "\n".join(lines)


def row(title: str, rates: Sequence[float], share: float | None) -> str:
    """A line of the table."""
    spread = f"{min(rates):,.1f} - {max(rates):,.1f}"
    shown = "" if share is None else f"{share:.0%}"
    return f"{'  ' + title:<58}{statistics.median(rates):>10,.1f}{spread:>21}{shown:>8}".rstrip()


if __name__ == "__main__":
    main()
