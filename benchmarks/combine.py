"""What the final combine step takes for very many scores: time, memory, and how sharp its metrics still are.

    PYTHONPATH=. python benchmarks/combine.py
    PYTHONPATH=. python benchmarks/combine.py --scores 10000000

Half of the scores are in-distribution, half not. As in a run, each shard's scores are a histogram, some workers add up
those of their shards, and what they hold is merged at the end. One process per line.
"""

import argparse
import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from odin_beam.transforms.metrics.combine_scores import CombineScoreHistograms
from odin_beam.transforms.metrics.detection_metrics import detection_metrics
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram

SHARD = 10_000
WORKERS = 8
_CLASSES = 10


def logits(rng: np.random.Generator, inside: bool) -> np.ndarray:
    """A score of order 1, such as `energy`, as float32 holds it."""
    return rng.normal(1.5 if inside else 0.0, 1.0, SHARD).astype(np.float32)


def odin(rng: np.random.Generator, inside: bool) -> np.ndarray:
    """ODIN at T = 1000: float64, all within about 1e-3 of 1 / K."""
    return 1 / _CLASSES + 1e-4 * rng.gamma(4.0 if inside else 2.0, 1.0, SHARD)


def msp(rng: np.random.Generator, inside: bool) -> np.ndarray:
    """Maximum softmax probabilities, from 1 / K on: half of the in-distribution ones are within 6e-5 of 1."""
    lead = np.abs(rng.normal(12.0 if inside else 6.0, 6.0, SHARD))
    return 1 / (1 + (_CLASSES - 1) * np.exp(-lead))


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, bool], np.ndarray]] = {
    "energy, float32": logits,
    "odin, T = 1000": odin,
    "msp": msp,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scores", type=int, default=100_000_000, help="(default: %(default)s)")
    shards = parser.parse_args().scores // (2 * SHARD)
    print(f"{2 * shards * SHARD:,} scores in shards of {SHARD:,}, {WORKERS} workers")
    print(
        f"{'scores':<18}{'seconds':>9}{'peak MB':>9}{'keys':>9}{'exact':>7}{'AUROC':>10}{'bounds apart':>14}",
        flush=True,
    )
    for name in DISTRIBUTIONS:
        with ProcessPoolExecutor(1, max_tasks_per_child=1) as process:
            print(process.submit(line, name, shards).result(), flush=True)


def line(name: str, shards: int) -> str:
    """Makes, combines and rates the scores of a distribution; the making is not timed."""
    rng, busy, found = np.random.default_rng(0), 0.0, []
    combine = CombineScoreHistograms()
    for inside in (True, False):
        held = [combine.create_accumulator() for _ in range(WORKERS)]
        for shard in range(shards):
            scores = DISTRIBUTIONS[name](rng, inside)
            started = time.perf_counter()
            held[shard % WORKERS] = combine.add_input(held[shard % WORKERS], ScoreHistogram.of(scores))
            busy += time.perf_counter() - started
        started = time.perf_counter()
        found.append(combine.extract_output(combine.merge_accumulators(held)))
        busy += time.perf_counter() - started
    started = time.perf_counter()
    metrics = detection_metrics(*found)
    busy += time.perf_counter() - started
    low, high = metrics.bounds["auroc"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    keys = max(len(histogram.bins().counts) for histogram in found)
    return (
        f"{name:<18}{busy:>9.1f}{peak:>9.0f}{keys:>9,}{'yes' if metrics.exact else 'no':>7}{metrics.auroc:>10.6f}"
        f"{high - low:>14.1e}"
    )


if __name__ == "__main__":
    main()
