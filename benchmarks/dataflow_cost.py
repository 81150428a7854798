"""What a thousand million images would take on Dataflow: on paper, from peaks and list prices, nothing was run there.

    PYTHONPATH=. python benchmarks/dataflow_cost.py
    PYTHONPATH=. python benchmarks/dataflow_cost.py --workers 16

The estimate is that of `odin-beam check --images`, see `transforms/checking/dataflow_cost.py`; the loads are three
networks whose operations `speed.py` counts, whose megabytes were counted by hand, see docs/performance.md, and whose
decoding was measured on this project's own machine.
"""

import argparse

from odin_beam.transforms.checking.dataflow_cost import WORKERS, Load, estimate

IMAGES = 1_000_000_000
LOADS = (
    Load("DenseNet-BC-100-12, PNG 32 x 32", 1.73, 320, 3000),
    Load("WideResNet-40-2, PNG 32 x 32", 1.97, 45, 3000),
    Load("ResNet-50, JPEG 500 x 375", 23.15, 1100, 850),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=64, help="(default: %(default)s)")
    workers = parser.parse_args().workers
    print(f"{IMAGES:,} images on {workers} workers, float32, on paper")
    print(f"{'':<33}{'worker':<26}{'images/s each':>14}{'hours':>8}{'dollars':>9}  binds")
    for load in LOADS:
        for worker in WORKERS:
            found = estimate(load, worker, IMAGES, workers)
            print(
                f"{load.name:<33}{worker.title:<26}{found.rate:>14,.0f}{found.hours:>8.1f}"
                f"{found.dollars:>9,.0f}  {found.binds}"
            )


if __name__ == "__main__":
    main()
