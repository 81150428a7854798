"""What a thousand million images would take on Dataflow: on paper, from peaks and list prices, nothing was run there.

    PYTHONPATH=. python benchmarks/dataflow_cost.py
    PYTHONPATH=. python benchmarks/dataflow_cost.py --workers 16

A device takes an image as long as the longer of two things does: its arithmetic at a share of the peak rate, and what
its layers hand to each other at a share of the peak bandwidth (the roofline of Williams, Waterman and Patterson 2009,
https://doi.org/10.1145/1498765.1498785). Decoding takes the worker's other cores, and is what binds where these are
slower than the device.
"""

import argparse
from dataclasses import dataclass

IMAGES = 1_000_000_000
# Of the peak rates: what large convolutions in float32 and copies reach in practice; an assumption.
ARITHMETIC_SHARE, BANDWIDTH_SHARE = 0.4, 0.7
# Dollars an hour, batch, us-central1: the list prices of https://cloud.google.com/dataflow/pricing as Apache Beam
# 2.77.0, of October 2026, has them for its own benchmarks (apache_beam/testing/load_tests/dataflow_cost_consts.py).
VCPU_PRICE, GB_PRICE = 0.056, 0.003557


@dataclass(frozen=True)
class Worker:
    """A machine with one GPU.

    Attributes:
      name: of the GPU.
      machine: its type.
      vcpus: of the machine.
      gigabytes: of the machine's memory.
      teraflops: float32 peak, from the GPU's data sheet.
      bandwidth: peak of its memory, GB/s, likewise.
      gpu_price: dollars an hour.
    """

    name: str
    machine: str
    vcpus: int
    gigabytes: float
    teraflops: float
    bandwidth: float
    gpu_price: float

    @property
    def price(self) -> float:
        """Dollars an hour, without disk."""
        return self.vcpus * VCPU_PRICE + self.gigabytes * GB_PRICE + self.gpu_price


@dataclass(frozen=True)
class Load:
    """A network and its images.

    Attributes:
      name: of both.
      gigaflops: of ODIN, per image, as `speed.py` counts them.
      megabytes: read and written by ODIN's layers, per image, in float32; counted by hand, see docs/performance.md.
      decoded: images per second that a core reads and decodes, measured on this project's own machine.
    """

    name: str
    gigaflops: float
    megabytes: float
    decoded: float


WORKERS = (
    Worker("T4", "n1-standard-4", 4, 15, 8.1, 320, 0.42),
    Worker("L4", "g2-standard-4", 4, 16, 30.3, 300, 0.672),
    Worker("A100 40 GB", "a2-highgpu-1g", 12, 85, 19.5, 1555, 3.72),
)
LOADS = (
    Load("DenseNet-BC-100-12, PNG 32 x 32", 1.73, 320, 3000),
    Load("WideResNet-40-2, PNG 32 x 32", 1.97, 45, 3000),
    Load("ResNet-50, JPEG 500 x 375", 23.15, 1100, 850),
)


@dataclass(frozen=True)
class Estimate:
    """What a load takes.

    Attributes:
      rate: images per second of one worker.
      binds: what that is limited by.
      hours: of all workers together.
      dollars: for all of them.
    """

    rate: float
    binds: str
    hours: float
    dollars: float


def estimate(load: Load, worker: Worker, workers: int) -> Estimate:
    """The load on so many workers."""
    rates = {
        "arithmetic": worker.teraflops * 1e3 * ARITHMETIC_SHARE / load.gigaflops,
        "GPU memory": worker.bandwidth * 1e3 * BANDWIDTH_SHARE / load.megabytes,
        "decoding": worker.vcpus * load.decoded,
    }
    binds = min(rates, key=rates.get)
    hours = IMAGES / rates[binds] / 3600 / workers
    return Estimate(rates[binds], binds, hours, hours * workers * worker.price)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=64, help="(default: %(default)s)")
    workers = parser.parse_args().workers
    print(f"{IMAGES:,} images on {workers} workers, float32, on paper")
    print(f"{'':<33}{'worker':<26}{'images/s each':>14}{'hours':>8}{'dollars':>9}  binds")
    for load in LOADS:
        for worker in WORKERS:
            found = estimate(load, worker, workers)
            print(
                f"{load.name:<33}{f'{worker.name}, {worker.machine}':<26}{found.rate:>14,.0f}{found.hours:>8.1f}"
                f"{found.dollars:>9,.0f}  {found.binds}"
            )


if __name__ == "__main__":
    main()
