"""What scoring an archive would take on Dataflow: on paper, from peaks and list prices; nothing was run there.

    from odin_beam.transforms.checking.dataflow_cost import WORKERS, Load, estimate
    estimate(Load("my network", gigaflops=1.97, megabytes=45, decoded=3000), WORKERS[0], images=10**9, workers=64)

A device takes an image as long as the longer of two things does: its arithmetic at a share of the peak rate, and what
its layers hand to each other at a share of the peak bandwidth (the roofline of Williams, Waterman and Patterson 2009,
https://doi.org/10.1145/1498765.1498785). Decoding takes the worker's other cores, and is what binds where these are
slower than the device. Imports no TensorFlow.
"""

from dataclasses import dataclass

# Of the peak rates: what large convolutions in float32 and copies reach in practice; an assumption.
ARITHMETIC_SHARE, BANDWIDTH_SHARE = 0.4, 0.7
# Dollars an hour, batch, us-central1: the list prices of https://cloud.google.com/dataflow/pricing as Apache Beam
# 2.77.0, of October 2026, has them for its own benchmarks (apache_beam/testing/load_tests/dataflow_cost_consts.py).
VCPU_PRICE, GB_PRICE = 0.056, 0.003557
PRICES = "list prices of October 2026"


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
    def title(self) -> str:
        return f"{self.name}, {self.machine}"

    @property
    def price(self) -> float:
        """Dollars an hour, without disk."""
        return self.vcpus * VCPU_PRICE + self.gigabytes * GB_PRICE + self.gpu_price


WORKERS = (
    Worker("T4", "n1-standard-4", 4, 15, 8.1, 320, 0.42),
    Worker("L4", "g2-standard-4", 4, 16, 30.3, 300, 0.672),
    Worker("A100 40 GB", "a2-highgpu-1g", 12, 85, 19.5, 1555, 3.72),
)


@dataclass(frozen=True)
class PassWork:
    """What one forward pass of one image takes.

    Attributes:
      operations: multiplications and additions of its convolutions and dense layers, each counted.
      values: numbers that its layers compute.
    """

    operations: int
    values: int


@dataclass(frozen=True)
class Load:
    """A network and its images.

    Attributes:
      name: of both.
      gigaflops: of all passes, per image.
      megabytes: read and written by the layers of all passes, per image, in float32.
      decoded: images per second that a core reads and decodes; None if unknown.
    """

    name: str
    gigaflops: float
    megabytes: float
    decoded: float | None

    @classmethod
    def of_passes(cls, name: str, work: PassWork, passes: int, decoded: float | None) -> "Load":
        """The load of so many passes.

        An input-gradient has the operations and the values of a forward pass. Every value is a float32, written once
        and read once.

        Args:
          name: of the network and its images.
          work: of a forward pass.
          passes: forward passes and input-gradients: 3 for ODIN, 1 with epsilon 0.
          decoded: images per second that a core reads and decodes; None if unknown.
        """
        return cls(name, passes * work.operations / 1e9, passes * work.values * 2 * 4 / 1e6, decoded)


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


def estimate(load: Load, worker: Worker, images: int, workers: int = 1) -> Estimate:
    """So many images of the load on so many workers."""
    rates = {
        "arithmetic": worker.teraflops * 1e3 * ARITHMETIC_SHARE / load.gigaflops,
        "GPU memory": worker.bandwidth * 1e3 * BANDWIDTH_SHARE / load.megabytes,
    }
    if load.decoded is not None:
        rates["decoding"] = worker.vcpus * load.decoded
    binds = min(rates, key=rates.get)
    hours = images / rates[binds] / 3600 / workers
    return Estimate(rates[binds], binds, hours, hours * workers * worker.price)
