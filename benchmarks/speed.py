r"""How fast ODIN is: this project, its peers, and what the machine could do at most.

    PYTHONPATH=. python benchmarks/speed.py
    PYTHONPATH=. python benchmarks/speed.py --networks wide_resnet --rounds 15

Peers are timed where their environments are, each in a folder of `--peers`; they are made so:

    python3.11 -m venv .peers/pytorch-ood
    .peers/pytorch-ood/bin/python -m pip install -r benchmarks/peers/requirements-pytorch-ood.txt
    python3.11 -m venv .peers/oodeel
    .peers/oodeel/bin/python -m pip install -r benchmarks/peers/requirements-oodeel.txt

Every contender has a process, the same weights and images, the same batch size and all cores. They take turns, a round
each, so that whatever else slows the machine slows them alike; two never run at once. A turn begins with a batch that
is not timed. Before all that their logits and scores are compared. Ratios and shares are medians over the rounds, of
two that ran in the same round.

The floor is three forwards' convolutions and dense layers at the rate at which this machine does 3x3 convolutions:
the input-gradient has the operations of a forward. The rate is measured in every round, with all cores on one
convolution and with one core for each of several; the better way counts.

The `score` job runs with so many images and three times as many. The difference gives the steady state, what is left
of the time is its start-up.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks import layers, networks
from benchmarks.networks import NETWORKS, Network
from odin_beam.transforms.forward.mixed_precision import has_bfloat16
from odin_beam.transforms.shards import framing

ROOT = Path(__file__).resolve().parents[1]
KERNEL = "this project, kernel"
MIXED = "this project, kernel, --precision mixed"
JOB = "this project, score job"
# Title, contender, and the folder of its environment; none is this one.
CONTENDERS = (
    (KERNEL, "kernel", None),
    *([(MIXED, "kernel-mixed", None)] if has_bfloat16() else []),
    ("TensorFlow, eager", "eager", None),
    ("pytorch-ood 0.4.0", "pytorch-ood", "pytorch-ood"),
    ("pytorch-ood 0.4.0, channels-last", "pytorch-ood-channels-last", "pytorch-ood"),
    ("oodeel 0.4.0", "oodeel", "oodeel"),
)
PEERS = {title for title, _, environment in CONTENDERS if environment}
FLOORS = ("floor-together", "floor-apart")
FORWARDS = 3
JOB_IMAGES = 4
JOB_SHARDS = 2


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
      title: of the contender.
      rates: images per second, by round; empty where it is not installed.
      of_peer: how many times as fast as the best peer; None where there is none.
      of_floor: share of the floor; None where it was not run.
    """

    title: str
    rates: Sequence[float]
    of_peer: float | None = None
    of_floor: float | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="which to time (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, help="(default: 64, and 16 at 224 pixels)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--job_rounds", type=int, default=2, help="of the score job, 0 for none (default: %(default)s)")
    parser.add_argument("--peers", type=Path, default=ROOT / ".peers", help="their environments (default: .peers)")
    arguments = parser.parse_args()
    wanted = arguments.networks.split(",")
    if unknown := [name for name in wanted if name not in NETWORKS]:
        parser.error(f"unknown network {unknown[0]}; there are {', '.join(NETWORKS)}")
    print(f"commit {commit()}; {cpu_model()}, {os.cpu_count()} cores, all of them for each", flush=True)
    print(f"Python {sys.version.split()[0]}, TensorFlow {tf.__version__}, Keras {version('keras')}", flush=True)
    for name in wanted:
        network = NETWORKS[name]
        with tempfile.TemporaryDirectory() as folder:
            compare(network, arguments.batch_size or network.batch_size, arguments, Path(folder))


@dataclass(frozen=True)
class Measured:
    """What the rounds gave, each value a list by round.

    Attributes:
      rates: images per second of each contender.
      gflops: rate of 3x3 convolutions, each way.
      start_ups: of the score job, in seconds.
    """

    rates: dict[str, list[float]]
    gflops: dict[str, list[float]]
    start_ups: list[float]


def compare(network: Network, batch_size: int, arguments: argparse.Namespace, folder: Path) -> None:
    """Times all that there is on a network, and prints its table."""
    images = max(1, network.images // batch_size) * batch_size
    operations = FORWARDS * prepare(network, images, folder)
    contenders, missing = {}, []
    for title, name, environment in CONTENDERS:
        python = Path(sys.executable) if environment is None else arguments.peers / environment / "bin" / "python"
        if python.exists():
            contenders[title] = ContenderProcess(name, python, folder, batch_size)
        else:
            missing.append(title)
    floors = {name: ContenderProcess(name, Path(sys.executable), folder, batch_size) for name in FLOORS}
    # The starts take turns too: their warming up would be in each other's way.
    versions = start(network, contenders)
    floor_operations = {name: floor.start()["operations"] for name, floor in floors.items()}
    job = Job(folder, JOB_IMAGES * images, batch_size) if arguments.job_rounds and network.image_size <= 32 else None
    measured = Measured({title: [] for title in (KERNEL, *([JOB] if job else []), *contenders)}, {}, [])
    for i in range(arguments.rounds):
        for name, floor in floors.items():
            measured.gflops.setdefault(name, []).append(floor_operations[name] / floor.seconds() / 1e9)
        for title, contender in contenders.items():
            measured.rates[title].append(images / contender.seconds())
        if job and i < arguments.job_rounds:
            rate, start_up = job.run()
            measured.rates[JOB].append(rate)
            measured.start_ups.append(start_up)
        shown = ", ".join(f"{title} {rates[-1]:.1f}" for title, rates in measured.rates.items() if len(rates) > i)
        progress(f"{network.title}: round {i + 1} of {arguments.rounds}, images/s: {shown}")
    counts = contenders[KERNEL].ask("counts")
    for process in (*contenders.values(), *floors.values()):
        process.stop()
    print("; ".join([f"\n{network.title}, batches of {batch_size}, {images} images a round", *versions]))
    print(results_text(measured, operations, missing))
    print(counts_text(counts), flush=True)


def start(network: Network, contenders: dict[str, "ContenderProcess"]) -> list[str]:
    """Starts them one after the other, and sees that they agree; the peers' versions of what they compute with."""
    greetings = {}
    for title, contender in contenders.items():
        progress(f"{network.title}: {title} starts")
        greetings[title] = contender.start()
        check_agreement(title, greetings[title], greetings[KERNEL], 0.1 if title == MIXED else 0.05)
    peers = {title.split(",")[0]: one["versions"] for title, one in greetings.items() if title in PEERS}
    return [f"{title} on {versions}" for title, versions in peers.items()]


def results_text(measured: Measured, operations: int, missing: Sequence[str]) -> str:
    """The floor, the table and the job's line.

    Args:
      measured: by the rounds.
      operations: of ODIN, per image.
      missing: titles of the contenders that are not installed.
    """
    best = max(measured.gflops, key=lambda name: statistics.median(measured.gflops[name]))
    gflops = measured.gflops[best]
    rows = table_rows(measured.rates, [1e9 * rate / operations for rate in gflops])
    lines = [
        f"3x3 convolutions: {statistics.median(gflops):.0f} GFLOP/s ({spread(gflops)}, cores "
        f"{best.removeprefix('floor-')}); ODIN: {operations / 1e9:.2f} GFLOP per image",
        format_table([*rows, *(Row(title, ()) for title in missing)]),
    ]
    if MIXED in measured.rates:
        faster = median_ratio(measured.rates[MIXED], measured.rates[KERNEL])
        lines.append(f"mixed precision: {faster:.2f} x the kernel in float32")
    if measured.start_ups:
        share = median_ratio(measured.rates[JOB], measured.rates[KERNEL])
        start_up = statistics.median(measured.start_ups)
        lines.append(
            f"score job: {share:.2f} of the kernel in the steady state; start-up {start_up:.1f} s "
            f"({spread(measured.start_ups)})"
        )
    return "\n".join(lines)


def table_rows(rates: dict[str, Sequence[float]], floor_rates: Sequence[float]) -> list[Row]:
    """The lines of a network: the floor, then the contenders.

    Args:
      rates: of each contender, images per second by round; those that are not this project's are peers.
      floor_rates: images per second that the machine's convolutions would allow, by round.
    """
    peers = {title: values for title, values in rates.items() if not title.startswith("this project")}
    best = max(peers.values(), key=statistics.median, default=None)
    rows = [Row("floor", floor_rates, median_ratio(floor_rates, best) if best else None, 1.0)]
    for title, values in rates.items():
        rows.append(Row(title, values, median_ratio(values, best) if best else None, median_ratio(values, floor_rates)))
    return rows


def median_ratio(rates: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios of two contenders in the same round, as far as both ran."""
    return statistics.median(one / other for one, other in zip(rates, others, strict=False))


def format_table(rows: Sequence[Row]) -> str:
    """Medians, spread, ratio to the best peer, share of the floor; a line each."""
    lines = [f"{'':<40}{'images/s':>10}{'min - max':>18}{'x best peer':>13}{'of floor':>10}"]
    for row in rows:
        if not row.rates:
            lines.append(f"{row.title:<40}  not installed: see docs/performance.md")
            continue
        of_peer = "-" if row.of_peer is None else f"{row.of_peer:.2f}"
        of_floor = "-" if row.of_floor is None else f"{row.of_floor:.0%}"
        median = statistics.median(row.rates)
        lines.append(f"{row.title:<40}{median:>10.1f}{spread(row.rates):>18}{of_peer:>13}{of_floor:>10}")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """From the least to the most."""
    return f"{min(values):.1f} - {max(values):.1f}"


def counts_text(counts: dict) -> str:
    """What a batch takes the kernel beside time, in words."""
    n = counts["images"]
    return (
        f"kernel: {counts['weight_gradients']} gradients of weights in {counts['graphs']} graphs; "
        f"{counts['graphs_later']} graphs more after batches of {', '.join(map(str, counts['batch_sizes']))}; "
        f"per image {counts['bytes_in'] / n:,.0f} bytes go to the device "
        f"(its pixels are {counts['pixel_bytes'] / n:,.0f}) and {counts['columns']} columns of "
        f"{counts['bytes_out'] / n:,.0f} bytes come back"
    )


def prepare(network: Network, images: int, folder: Path) -> int:
    """Writes the network and the images for every contender; the operations of one forward of one image."""
    pixels = networks.cifar_images(images, network.image_size)
    model = networks.build(network, pixels[:16])
    model.save(folder / "network.keras")
    described, weights = networks.describe(model)
    layers.save_network(folder, described, weights)
    np.save(folder / "images.npy", pixels)
    return layers.operations(described)


def check_agreement(title: str, greeting: dict, reference: dict, tolerance: float = 0.05) -> None:
    """A contender computes what the kernel does, or its time means nothing.

    Raises:
      SystemExit: its logits are off by more than 1e-3 of the largest; or its scores, as `T (log S + log K)`, by more
        than the tolerance, in the median: near 0 a gradient's sign is a matter of rounding, and so single scores are.
    """
    logits, wanted = np.array(greeting["logits"]), np.array(reference["logits"])
    off = np.abs(logits - wanted).max() / np.abs(wanted).max()
    if not off < 1e-3:
        raise SystemExit(f"{title}: logits differ from the kernel's by {off:.1e} of the largest")
    scores, wanted = (1000 * (np.log(one["scores"]) + np.log(logits.shape[1])) for one in (greeting, reference))
    off = np.median(np.abs(scores - wanted) / np.abs(wanted))
    if not off < tolerance:
        raise SystemExit(f"{title}: scores differ from the kernel's by {off:.1e} in the median")


class ContenderProcess:
    """A process of `contender.py`.

    Args:
      name: of the contender.
      python: of its environment.
      folder: with the network and the images.
      batch_size: of its batches.
    """

    def __init__(self, name: str, python: Path, folder: Path, batch_size: int):
        self._name = name
        self._command = [str(python), "-m", "benchmarks.contender", name, str(folder), str(batch_size)]
        self._errors = folder / f"{name}.log"
        self._process = None

    def start(self) -> dict:
        """Gives what it says once it has warmed up."""
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2"},
            )
        return self._answer()

    def ask(self, question: str) -> dict:
        """A line for a line.

        Raises:
          SystemExit: it is there no more.
        """
        try:
            print(question, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            status = self._process.wait()
            raise SystemExit(
                f"{self._name} ended with status {status}; if that is -9, memory ran out: give a smaller --batch_size"
            ) from None
        return self._answer()

    def seconds(self) -> float:
        """Of one round."""
        return self.ask("")["seconds"]

    def stop(self) -> None:
        """Ends it."""
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name} failed:\n{self._errors.read_text()}")
        return json.loads(line)


class Job:
    """The job `score` on PNG images in TFRecord shards.

    Args:
      folder: with `network.keras` and `images.npy`; the shards and the outputs go there too.
      images: of the smaller of its two runs.
      batch_size: of its batches.
    """

    def __init__(self, folder: Path, images: int, batch_size: int):
        self._folder = folder
        self._images = images
        self._batch_size = batch_size
        self._runs = 0
        pixels = networks.cifar_images(3 * images, 32)
        for i, part in enumerate(np.array_split((pixels * 255).round().astype(np.uint8), 3 * JOB_SHARDS)):
            with (folder / f"in-{i:02d}.tfrecord").open("wb") as stream:
                stream.writelines(framing.frame(_example(image)) for image in part)

    def run(self) -> tuple[float, float]:
        """Images per second in the steady state, and seconds of the start-up."""
        few = self._seconds(JOB_SHARDS)
        many = self._seconds(3 * JOB_SHARDS)
        rate = 2 * self._images / (many - few)
        return rate, few - self._images / rate

    def _seconds(self, shards: int) -> float:
        self._runs += 1
        inputs = ",".join(f"photos={self._folder}/in-{i:02d}.tfrecord" for i in range(shards))
        command = [sys.executable, "-m", "odin_beam", "score", f"--model={self._folder}/network.keras"]
        command += [
            f"--input={inputs}",
            f"--output={self._folder}/out-{self._runs}",
            f"--batch_size={self._batch_size}",
        ]
        started = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
        return time.perf_counter() - started


def _example(image: np.ndarray) -> bytes:
    png = tf.io.encode_png(image).numpy()
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[png]))
    return tf.train.Example(features=tf.train.Features(feature={"image": feature})).SerializeToString()


def commit() -> str:
    """Of the code that is timed."""
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty=, with changes"], capture_output=True, text=True, cwd=ROOT
    )
    return described.stdout.strip() or "unknown"


def cpu_model() -> str:
    """As the system calls it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"


def progress(message: str) -> None:
    """What is going on, to standard error."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
