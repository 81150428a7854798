"""How often the intervals of `compare` hold, and what it says of batches of which the truth is known, in simulation.

    python -m tests.by_hand.coverage_of_comparisons

Batches are drawn and judged by the functions that the job uses. Scores are normal, and those of foreign images three
standard deviations lower, which is an AUROC of 0.983; intervals and verdicts are those of each of 12 detectors.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from scipy.special import ndtr

from odin_beam.transforms.calibration.conformal import CalibrationScores
from odin_beam.transforms.comparison.class_mix import mix_effect
from odin_beam.transforms.comparison.comparison_content import LEVEL, level_of_interval
from odin_beam.transforms.comparison.two_samples import auroc_effect, ks_effect, shard_against_rest
from odin_beam.transforms.comparison.verdicts import CANNOT_SAY, MOVED, NO_MOVE, judge, shard_limit
from odin_beam.transforms.metrics.score_histogram import Bins, CommonBins

DETECTORS = 12
SIZES = (100, 1000, 10_000, 100_000, 1_000_000)
SHARES = (0.0, 0.02, 0.1, 0.3)
FOREIGN = -3.0
SETTINGS = ((0.0, 20, 20), (0.0, 200, 20), (0.3, 20, 20), (0.3, 20, 1), (0.3, 4, 1))


def batch(rng: np.random.Generator, images: int, shards: int, share: float, spread: float) -> list[np.ndarray]:
    """Scores of a batch's shards, in steps of 0.001, so that large batches stay quick.

    Args:
      rng: of all draws.
      images: in all shards together.
      shards: of equal size.
      share: of foreign images, drawn for each image.
      spread: standard deviation of the shards' means.
    """
    parts = []
    for size in np.diff(np.linspace(0, images, shards + 1).astype(int)):
        scores = rng.normal(rng.normal(0, spread), 1, size) + FOREIGN * (rng.random(size) < share)
        parts.append(scores.round(3))
    return parts


def common_bins(x: np.ndarray, y: np.ndarray) -> CommonBins:
    """The bins that two exact histograms of these scores have in common, without the histograms."""
    values, places = np.unique(np.concatenate([x, y]), return_inverse=True)
    counts = [np.bincount(part, minlength=len(values)) for part in np.split(places, [len(x)])]
    return CommonBins(values, values, *counts)


def verdict(reference: list[np.ndarray], new: list[np.ndarray]) -> str:
    """What `compare` says of one detector's scores."""
    whole, bins = np.concatenate(reference), common_bins(np.concatenate(reference), np.concatenate(new))
    steps, counts = np.unique(whole, return_counts=True)
    calibration = CalibrationScores(steps, np.cumsum(counts))
    against = []
    for shard in reference:
        steps, counts = np.unique(shard, return_counts=True)
        against.append(shard_against_rest(calibration, Bins(steps, steps, counts)))
    values = [pair for pair in against if pair is not None]
    level = level_of_interval(DETECTORS)
    auroc = replace(auroc_effect(bins, level), shards=shard_limit([abs(value - 0.5) for value, _ in values]))
    ks = replace(ks_effect(bins, level), shards=shard_limit([value for _, value in values]))
    return judge([auroc, ks]).verdict


def verdicts(
    images: int, share: float, spread: float, shards: int, new_shards: int, repeats: int, seed: int = 0
) -> dict[str, float]:
    """Share of simulations with each verdict.

    Args:
      images: in either batch.
      share: of foreign images in the new batch.
      spread: see `batch`.
      shards: of the reference.
      new_shards: of the new batch.
      repeats: simulations.
      seed: of all draws.
    """
    rng, found = np.random.default_rng(seed), Counter()
    for _ in range(repeats):
        # Of few images, shards of at least 5.
        reference = batch(rng, images, min(shards, images // 5), 0.0, spread)
        found[verdict(reference, batch(rng, images, new_shards, share, spread))] += 1
    return {name: found[name] / repeats for name in (MOVED, NO_MOVE, CANNOT_SAY)}


def score_coverage(
    images: int, new_images: int, shift: float, level: float, repeats: int, decimals: int | None = None
) -> tuple[float, float]:
    """Shares of simulations in which AUROC's interval, and D's, hold the truth.

    Args:
      images: of the reference.
      new_images: of the new batch.
      shift: of the new scores, normal as the others.
      level: see `auroc_effect`.
      repeats: simulations.
      decimals: of the scores, to make ties; None for exact scores.
    """
    rng, held = np.random.default_rng(1), np.zeros(2)
    grid = np.arange(-12, 12, 10.0 ** -(3 if decimals is None else decimals))
    # The distribution functions at the middles between two rounded scores, and what they put on each.
    cumulative = ndtr(np.stack([grid, grid - shift]) + (grid[1] - grid[0]) / 2)
    mass = np.diff(cumulative, axis=1, prepend=0)
    auroc = float(mass[0] @ (cumulative[1] - mass[1] / 2))
    ks = float(np.abs(cumulative[0] - cumulative[1]).max())
    for _ in range(repeats):
        x, y = rng.normal(0, 1, images), rng.normal(shift, 1, new_images)
        if decimals is not None:
            x, y = x.round(decimals), y.round(decimals)
        bins = common_bins(x, y)
        for i, (effect, truth) in enumerate(((auroc_effect(bins, level), auroc), (ks_effect(bins, level), ks))):
            held[i] += effect.low <= truth + 1e-4 and truth - 1e-4 <= effect.high
    return tuple((held / repeats).tolist())


def mix_coverage(images: int, new_images: int, classes: int, moved: float, repeats: int) -> tuple[float, float]:
    """Share of simulations in which the interval of the class mix holds the truth, and the mean of its excess.

    Args:
      images: of the reference, of evenly mixed classes.
      new_images: of the new batch.
      classes: number of them.
      moved: true total variation: this share of the new images is taken from the first half of the classes and given to
        the second.
      repeats: simulations.
    """
    rng, held, excess = np.random.default_rng(2), 0, []
    even, half = np.full(classes, 1 / classes), classes // 2
    other = even + np.repeat([-moved / half, moved / (classes - half)], [half, classes - half])
    for _ in range(repeats):
        effect = mix_effect(
            dict(enumerate(rng.multinomial(images, even).tolist())),
            dict(enumerate(rng.multinomial(new_images, other).tolist())),
            LEVEL,
        )
        held += effect.low <= moved <= effect.high
        excess.append(effect.value)
    return held / repeats, float(np.mean(excess))


def power_lines(settings: Iterable[tuple[float, int, int]] = SETTINGS) -> Iterator[str]:
    """A table for each (spread, shards of the reference, shards of the new batch)."""
    for spread, shards, new_shards in settings:
        yield (
            f"\nshards differ by {spread:g} standard deviations, reference in {shards}, new batch in {new_shards}; "
            "moved / no relevant move / cannot say, % of simulations\n"
        )
        yield f"{'images':>12}" + "".join(f"{f'{100 * share:g} % foreign':>20}" for share in SHARES)
        for images in SIZES:
            repeats = min(200, max(10, 2_000_000 // images))
            cells = []
            for share in SHARES:
                found = verdicts(images, share, spread, shards, new_shards, repeats)
                cells.append(" / ".join(f"{100 * value:.0f}" for value in found.values()))
            yield f"{images:>12,}" + "".join(f"{cell:>20}" for cell in cells)


def main() -> None:
    print("AUROC's and D's interval, % of simulations in which they hold the truth\n")
    print(f"{'reference':>12}{'new':>10}{'shift':>7}{'ties':>6}{'level':>8}{'AUROC':>8}{'D':>8}")
    for images, new_images in ((5, 5), (20, 20), (100, 100), (1000, 100), (1000, 1000), (10_000, 10_000)):
        for shift, decimals in ((0.0, None), (-0.5, None), (-0.5, 0), (-3.0, None)):
            for level in (LEVEL, level_of_interval(DETECTORS)):
                auroc, ks = score_coverage(images, new_images, shift, level, 2000, decimals)
                print(
                    f"{images:>12,}{new_images:>10,}{shift:>7}{'no' if decimals is None else 'yes':>6}{level:>8.4f}"
                    f"{100 * auroc:>8.1f}{100 * ks:>8.1f}",
                    flush=True,
                )
    print("\nmix of classes: % of simulations in which the interval holds the truth; mean excess\n")
    print(f"{'reference':>12}{'new':>10}{'classes':>9}{'truth':>8}{'holds':>8}{'excess':>9}")
    for images, new_images in ((100, 100), (1000, 100), (1000, 1000), (100_000, 10_000)):
        for classes in (10, 1000):
            for moved in (0.0, 0.05, 0.2):
                held, excess = mix_coverage(images, new_images, classes, moved, 400)
                print(
                    f"{images:>12,}{new_images:>10,}{classes:>9,}{moved:>8}{100 * held:>8.1f}{excess:>9.3f}", flush=True
                )
    for line in power_lines():
        print(line, flush=True)


if __name__ == "__main__":
    main()
