"""How often the intervals and bounds that are printed hold, in simulation; 95 % is what each of them says.

    python -m tests.by_hand.coverage_of_intervals

Scores are drawn, calibrated and judged by the functions that the jobs use. "ties" are scores of 100 distinct values;
images are like the calibration images but for the share that is said.
"""

import functools

import numpy as np

from odin_beam.transforms.calibration.choose_cell import PairedScores
from odin_beam.transforms.calibration.choose_detector import choose_detector, held_out_gains
from odin_beam.transforms.calibration.conformal import CalibrationScores
from odin_beam.transforms.calibration.expected_flags import Group, flags_to_expect, unlike_at_least
from odin_beam.transforms.calibration.grid_scores import SourceScores
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.ranking.review import Stratum, review

SIZES = (10, 100, 10_000, 1_000_000, 10_000_000)


def calibration(rng: np.random.Generator, count: int, atoms: int | None) -> CalibrationScores:
    """Scores uniform in (0, 1), or, with atoms, rounded down to one of these many values."""
    scores = rng.random(count)
    return CalibrationScores.of(ScoreHistogram.of(np.floor(scores * atoms) / atoms if atoms else scores))


def flags(images: int, count: int, atoms: int | None, share: float, repeats: int = 1000) -> tuple[float, float]:
    """Shares of simulations in which the interval holds the false flags, and the bound holds the foreign images."""
    rng, held, bounded, foreign = np.random.default_rng(0), 0, 0, round(share * images)
    interval, bound = functools.cache(flags_to_expect_of), functools.cache(unlike_at_least_of)
    for _ in range(repeats):
        scores = calibration(rng, count, atoms)
        below, tied = scores.below_threshold(0.95)
        rate = scores.threshold(0.95)
        like = int(rng.binomial(images - foreign, rate))
        low, high = interval(images, count, below, tied)
        held += low <= int(rng.binomial(images, rate)) <= high
        bounded += bound(images, count, below, tied, like + foreign) <= foreign
    return held / repeats, bounded / repeats


def flags_to_expect_of(images: int, count: int, below: int, tied: bool) -> tuple[int, int]:
    return flags_to_expect([Group(images, count, below, tied)])


def unlike_at_least_of(images: int, count: int, below: int, tied: bool, flagged: int) -> int:
    return unlike_at_least([Group(images, count, below, tied)], flagged)


def realised_tpr(count: int, repeats: int = 4000) -> float:
    """Share of simulations in which the interval of a threshold holds the true positive rate on new images."""
    rng, held = np.random.default_rng(1), 0
    for _ in range(repeats):
        scores = calibration(rng, count, None)
        _, low, high = scores.realised_tpr(0.95)
        held += low <= 1 - scores.threshold(0.95) <= high
    return held / repeats


def source(rng: np.random.Generator, names: list[str], shift: float, count: int) -> SourceScores:
    """Normal scores around `shift`, most of whose noise is shared by the columns."""
    shared = rng.normal(size=count)
    columns = {name: shared + shift + 0.3 * rng.normal(size=count) for name in names}
    zeros = np.zeros(count, np.int64)
    return SourceScores(columns, zeros.astype(np.int32), zeros, rng.permutation(10**6)[:count])


def gains(count: int, detectors: int, repeats: int = 400) -> tuple[float, float, float]:
    """Shares in which the intervals of a gain, and the bound for all detectors at once, hold a true gain of 0."""
    rng, held, paired, bounded = np.random.default_rng(2), 0, 0, 0
    names = ["gen", *(f"d{i}" for i in range(detectors))]
    for _ in range(repeats):
        inside, outside = source(rng, names, 0.0, count), {"x": source(rng, names, -1.0, count)}
        _, low, high = held_out_gains(inside, outside, ["d0"], "gen")["d0"]
        held += low <= 0 <= high
        gain = PairedScores(inside.columns, [outside["x"].columns]).gain("d0", "gen", "auroc")
        paired += gain.low <= 0 <= gain.high
        comparisons = choose_detector(inside, outside, names, (), "", False).comparisons
        bounded += max(comparison.low for comparison in comparisons) <= 0
    return held / repeats, paired / repeats, bounded / repeats


def reviews(images: int, share: float, labelled: int, repeats: int = 2000) -> tuple[float, float, float]:
    """Shares in which the intervals of a labelled sample hold precision, share of foreign images and recall.

    6 % of the images are flagged, and they hold 70 % of the foreign ones, or as many as fit in.
    """
    rng, held = np.random.default_rng(3), np.zeros(3)
    flagged, foreign = max(1, round(0.06 * images)), round(share * images)
    found = min(flagged, round(0.7 * foreign))
    rest, missed = images - flagged, foreign - found
    truths = found / flagged, foreign / images, found / foreign
    for _ in range(repeats):
        strata = [
            Stratum(size, n, int(rng.hypergeometric(inside, size - inside, n)))
            for size, inside in ((flagged, found), (rest, missed))
            for n in (min(labelled, size),)
        ]
        said = review(*strata)
        estimates = said.precision, said.prevalence, said.recall
        held += [e.low - 1e-12 <= truth <= e.high + 1e-12 for e, truth in zip(estimates, truths, strict=True)]
    return tuple(held / repeats)


def main() -> None:
    print("labels of a sample: precision, share of foreign images, recall, % of simulations\n")
    print(f"{'images':>12}{'foreign':>9}{'labelled':>10}{'precision':>11}{'share':>8}{'recall':>8}")
    for images in (100, 10_000, 1_000_000):
        for share in (0.02, 0.1, 0.3):
            for labelled in (50, 500):
                held = "".join(
                    f"{100 * s:>{w}.1f}" for s, w in zip(reviews(images, share, labelled), (11, 8, 8), strict=True)
                )
                print(f"{images:>12,}{share:>9.0%}{labelled:>10}{held}", flush=True)
    print()
    print("flags to expect (interval), images unlike the calibration (lower bound), % of simulations\n")
    print(f"{'images':>12}{'calibration':>12}{'ties':>6}{'foreign':>9}{'interval':>10}{'bound':>8}")
    for images in SIZES:
        for count in (100, 1000):
            for atoms, share in ((None, 0.0), (None, 0.1), (100, 0.1)):
                interval, bound = flags(images, count, atoms, share)
                tied = "yes" if atoms else "no"
                print(
                    f"{images:>12,}{count:>12,}{tied:>6}{share:>9.0%}{100 * interval:>10.1f}{100 * bound:>8.1f}",
                    flush=True,
                )
    print("\nTPR of a threshold on new images, % of simulations\n")
    for count in (100, 500, 10_000):
        print(f"{count:>12,} calibration images {100 * realised_tpr(count):>6.1f}", flush=True)
    print("\ngain of a detector (interval), of a cell (interval), of all detectors at once (bound), % of simulations\n")
    for count, detectors in ((150, 5), (150, 20), (1000, 5), (1000, 20)):
        held, paired, bounded = (100 * share for share in gains(count, detectors))
        print(
            f"{count:>12,} images a side, {detectors:>2} detectors {held:>8.1f}{paired:>8.1f}{bounded:>8.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
