"""How fast ODIN is on a GPU, and how busy that is.

    PYTHONPATH=. python benchmarks/gpu.py
    PYTHONPATH=. python benchmarks/gpu.py --networks resnet50 --batch_size 256

For each network the kernel in float32 and with `--precision mixed`, each in a process of its own, in turns with the
GPU's own rate of 3x3 convolutions in float32: images per second, the share of what that rate would allow, see
`speed.py`, and the share of the time in which the GPU computed anything, which `nvidia-smi` samples while the kernel
scores.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from benchmarks.networks import NETWORKS, Network
from benchmarks.speed import FORWARDS, ContenderProcess, prepare, spread

PRECISIONS = {"float32": "kernel", "mixed": "kernel-mixed"}
SAMPLE = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
SAMPLE_SECONDS = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(NETWORKS), help="(default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=256, help="(default: %(default)s)")
    parser.add_argument("--batches", type=int, default=40, help="of a round (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    arguments = parser.parse_args()
    try:
        subprocess.run(SAMPLE, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as e:
        raise SystemExit("nvidia-smi finds no GPU here: see benchmarks/speed.py for processors") from e
    print(f"{'':<24}{'precision':<12}{'images/s':>10}{'min - max':>20}{'of floor':>10}{'busy':>8}", flush=True)
    for name in arguments.networks.split(","):
        with tempfile.TemporaryDirectory() as folder:
            measure(NETWORKS[name], arguments, Path(folder))


def measure(network: Network, arguments: argparse.Namespace, folder: Path) -> None:
    """Prints a network's lines."""
    images = arguments.batch_size * arguments.batches
    operations = FORWARDS * prepare(network, images, folder)

    def process(name: str) -> ContenderProcess:
        return ContenderProcess(name, Path(sys.executable), folder, arguments.batch_size)

    floor, kernels = process("floor-together"), {precision: process(name) for precision, name in PRECISIONS.items()}
    floor_operations = floor.start()["operations"]
    for kernel in kernels.values():
        kernel.start()
    rates, shares, busy = ({precision: [] for precision in kernels} for _ in range(3))
    for _ in range(arguments.rounds):
        floor_rate = floor_operations / floor.seconds() / operations
        for precision, kernel in kernels.items():
            with Utilization() as used:
                rates[precision].append(images / kernel.seconds())
            shares[precision].append(rates[precision][-1] / floor_rate)
            busy[precision] += used.samples
    for one in (floor, *kernels.values()):
        one.stop()
    for precision, found in rates.items():
        print(
            f"{network.title:<24}{precision:<12}{statistics.median(found):>10,.0f}{spread(found):>20}"
            f"{statistics.median(shares[precision]):>10.0%}{statistics.mean(busy[precision] or [0]):>7.0f}%",
            flush=True,
        )


class Utilization:
    """Samples, while it is entered, how much of the last moment the first GPU was busy, in percent."""

    def __init__(self):
        self.samples: list[float] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Utilization":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            said = subprocess.run(SAMPLE, check=True, capture_output=True, text=True).stdout
            self.samples.append(float(said.split()[0]))


if __name__ == "__main__":
    main()
