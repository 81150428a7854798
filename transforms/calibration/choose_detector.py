"""Which detector to recommend: the default, unless several kinds of out-of-distribution images say another is better.

The default is `gen_mds_unit` where a reference gives every image a score of it. It is the lower of what logits and what
features say, so it loses little wherever either of them sees something. What separates known images from altered copies
of them is no evidence against it: how images of another kind look to a network, copies do not tell. Without such scores
the default is `gen`: generalised entropy needs no tuning, and is above the maximum softmax probability on every
leaderboard cell where ODIN is below it on all near ones.

Another detector needs evidence: a mean gain in AUROC over the kinds whose simultaneous lower bound is above 0, with no
kind on which it loses more than a point. The bound is that of a bootstrap of blocks, each with all the images that were
made of its one or two originals: `gain_d - c`, where c is the 95 % quantile of `max_d (gain*_d - gain_d)` over all
candidates, so that it holds for the best of them, too.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from odin_beam.transforms.calibration.grid_scores import SourceScores
from odin_beam.transforms.detectors.registry import DEFAULTS

# With fewer images on a side, or with several detectors above this AUROC, a kind of images says nothing.
FEW_IMAGES = 100
SATURATED = 0.995
SATURATED_DETECTORS = 3
# Patches alone choose worse than always taking the maximum softmax probability.
LEAST_SURROGATES = 2
# The largest loss in AUROC that is tolerated on any kind.
LARGEST_LOSS = 0.01
RESAMPLES = 2000
CONFIDENCE = 0.95
# float64 numbers of the resampled weights in memory at once, 64 MiB.
_WEIGHTS = 1 << 23


@dataclass(frozen=True)
class Family:
    """One kind of out-of-distribution images.

    Attributes:
      name: of the source.
      images: how many.
      aurocs: by candidate.
      problem: why it says nothing about the detectors; None if it does.
    """

    name: str
    images: int
    aurocs: Mapping[str, float]
    problem: str | None


@dataclass(frozen=True)
class Comparison:
    """A candidate against the default, in AUROC; above 0 is better.

    Attributes:
      detector: the candidate's column.
      gain: mean over the families that say something.
      low: simultaneous 95 % lower bound of the gain.
      worst_family: the one on which it gains least, of those with enough images.
      worst_gain: its gain there.
    """

    detector: str
    gain: float
    low: float
    worst_family: str
    worst_gain: float

    @property
    def is_better(self) -> bool:
        """Whether it may be recommended in place of the default."""
        return self.low > 0 and self.worst_gain >= -LARGEST_LOSS


@dataclass(frozen=True)
class Choice:
    """A recommendation, and what it rests on.

    Attributes:
      detector: the recommended one.
      default: the one that it is compared with.
      reason: in words.
      families: in the order given.
      comparisons: of all candidates but the default, the largest gain first; empty if no family says anything.
    """

    detector: str
    default: str
    reason: str
    families: tuple[Family, ...]
    comparisons: tuple[Comparison, ...]


def choose_detector(
    inside: SourceScores,
    outside: Mapping[str, SourceScores],
    columns: Sequence[str],
    cells: Collection[str],
    cell: str,
    surrogates: bool,
) -> Choice:
    """Chooses among detectors.

    Args:
      inside: in-distribution images.
      outside: by family.
      columns: to compare, with `gen` among them; those without a score for some image are left out.
      cells: those of them that are ODIN's, and one detector together.
      cell: the only one of these that can be recommended; the bound holds for all, since the images chose it.
      surrogates: whether the families are made of in-distribution images.
    """
    least_families = LEAST_SURROGATES if surrogates else 1
    candidates = [name for name in columns if all(scores.has_all(name) for scores in (inside, *outside.values()))]
    default = next(name for name in DEFAULTS if name in candidates)
    placed = {name: _placements(inside, scores, candidates) for name, scores in outside.items()}
    families = tuple(_family(name, len(inside), outside[name], placed[name], candidates, cells) for name in outside)
    enough = [family for family in families if min(family.images, len(inside)) >= FEW_IMAGES]
    telling = [family for family in families if family.problem is None]
    if len(telling) < max(1, least_families):
        reason = f"no evidence: {_problems(len(inside), families, least_families)}"
        return Choice(default, default, reason, families, ())
    compared = {family.name: placed[family.name] for family in telling}
    gains, resampled = _resampled_gains(inside, outside, compared, candidates, default)
    others = [i for i, name in enumerate(candidates) if name != default]
    excess = (resampled - gains)[:, others].max(axis=1) if others else np.zeros(1)
    low = gains - np.quantile(excess, CONFIDENCE)
    comparisons = []
    for name, gain, bound in zip(candidates, gains, low, strict=True):
        if name == default or (name in cells and name != cell):
            continue
        worst = min(enough, key=lambda family: family.aurocs[name] - family.aurocs[default])
        loss = worst.aurocs[name] - worst.aurocs[default]
        comparisons.append(Comparison(name, float(gain), float(bound), worst.name, loss))
    comparisons = tuple(sorted(comparisons, key=lambda comparison: -comparison.gain))
    if surrogates and default != DEFAULTS[-1]:
        return Choice(
            default,
            default,
            "it sees what logits and what features show; altered copies are no evidence against it",
            families,
            comparisons,
        )
    if better := [comparison for comparison in comparisons if comparison.is_better]:
        reason = f"better than {default} by more than chance"
        return Choice(better[0].detector, default, reason, families, comparisons)
    reason = f"no detector is certainly better than {default} on all kinds of images"
    return Choice(default, default, reason, families, comparisons)


def held_out_gains(
    inside: SourceScores, outside: Mapping[str, SourceScores], detectors: Sequence[str], default: str
) -> dict[str, tuple[float, float, float]]:
    """Detectors' mean gains in AUROC over the default on images that did not choose them.

    Args:
      inside: in-distribution images.
      outside: by family.
      detectors: columns.
      default: the column that they are compared with.

    Returns:
      Detector -> value, lower and upper end of the 95 % interval.

    Raises:
      ValueError: there are no such images.
    """
    columns = [default, *detectors]
    if not outside or not all(len(scores) for scores in (inside, *outside.values())):
        raise ValueError("no images to compare detectors on")
    placed = {name: _placements(inside, scores, columns) for name, scores in outside.items()}
    gains, resampled = _resampled_gains(inside, outside, placed, columns, default)
    tail = 100 * (1 - CONFIDENCE) / 2
    figures = np.stack([gains, *np.percentile(resampled, [tail, 100 - tail], axis=0)], axis=1)
    return {name: tuple(row) for name, row in zip(detectors, figures[1:].tolist(), strict=True)}


def _problems(inside: int, families: Sequence[Family], least_families: int) -> str:
    """Why these images do not tell how good detectors are."""
    if inside < FEW_IMAGES:
        return f"only {inside} images to choose with, fewer than {FEW_IMAGES}"
    if not families:
        return "there are no images to compare with"
    if problems := [f"{family.name}: {family.problem}" for family in families if family.problem]:
        return "; ".join(problems)
    return f"{len(families)} kind of surrogates instead of {least_families} or more"


def _family(
    name: str,
    inside: int,
    scores: SourceScores,
    placed: tuple[np.ndarray, np.ndarray],
    candidates: Sequence[str],
    cells: Collection[str],
) -> Family:
    aurocs = dict(zip(candidates, placed[1].mean(axis=1).tolist(), strict=True))
    # All cells of a grid are one detector.
    saturated = {"odin" if column in cells else column for column, auroc in aurocs.items() if auroc > SATURATED}
    problem = None
    if min(inside, len(scores)) < FEW_IMAGES:
        problem = f"fewer than {FEW_IMAGES} images"
    elif len(saturated) >= SATURATED_DETECTORS:
        problem = f"too easy: {len(saturated)} detectors have an AUROC above {100 * SATURATED:g} %"
    return Family(name, len(scores), aurocs, problem)


def _placements(inside: SourceScores, outside: SourceScores, columns: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Each image's share in the AUROC, whose mean over either side it is (DeLong et al. 1988).

    Returns:
      (float64 [columns, N] of the in-distribution images: the share of the others below, ties one half;
      float64 [columns, M] of the others: the share of in-distribution images above).
    """
    above, below = [], []
    for column in columns:
        known, foreign = inside.columns[column], outside.columns[column]
        ranks = rankdata(np.concatenate([known, foreign]))
        above.append((ranks[: len(known)] - rankdata(known)) / len(foreign))
        below.append(1 - (ranks[len(known) :] - rankdata(foreign)) / len(known))
    return np.array(above), np.array(below)


def _resampled_gains(
    inside: SourceScores,
    outside: Mapping[str, SourceScores],
    placed: Mapping[str, tuple[np.ndarray, np.ndarray]],
    candidates: Sequence[str],
    default: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean gains over the default, [candidates], and the same of resampled blocks, [RESAMPLES, candidates].

    The AUROC of a resample is taken to first order, as the weighted means of the placements: one product of matrices
    instead of sorting for each resample and candidate.
    """
    compared_with = list(candidates).index(default)
    blocks, known = np.unique(np.concatenate([inside.blocks, *(outside[name].blocks for name in placed)])), []
    # Per block: the number of images on each side, and the sums of their placements' gains.
    gains = np.zeros(len(candidates))
    for name, (above, below) in placed.items():
        gain_above, gain_below = above - above[compared_with], below - below[compared_with]
        gains += gain_above.mean(axis=1) / len(placed)
        known.append(
            (_by_block(blocks, inside.blocks, gain_above), _by_block(blocks, outside[name].blocks, gain_below))
        )
    rng, resampled = np.random.default_rng(0), []
    at_once = max(1, _WEIGHTS // len(blocks))
    for start in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - start)
        weights = rng.multinomial(len(blocks), np.full(len(blocks), 1 / len(blocks)), size=count).astype(np.float64)
        means = np.zeros((count, len(candidates)))
        for (above_sums, above_counts), (below_sums, below_counts) in known:
            above = weights @ above_sums / np.maximum(1, weights @ above_counts)[:, None]
            below = weights @ below_sums / np.maximum(1, weights @ below_counts)[:, None]
            means += above + below - above_sums.sum(axis=0) / above_counts.sum()
        resampled.append(means / len(known))
    return gains, np.concatenate(resampled)


def _by_block(blocks: np.ndarray, of_images: np.ndarray, gains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums [blocks, columns] and numbers [blocks] of images."""
    place = np.searchsorted(blocks, of_images)
    sums = np.stack([np.bincount(place, row, len(blocks)) for row in gains], axis=1)
    return sums, np.bincount(place, minlength=len(blocks)).astype(np.float64)
