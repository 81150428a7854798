"""The content of a comparison's JSON file, from merged histograms, counts and what the reference's shards do."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from odin_beam.transforms.calibration.conformal import CalibrationScores
from odin_beam.transforms.calibration.flag_rule import FlagRule
from odin_beam.transforms.calibration.flags_summary import FlagCounts, flag_figures
from odin_beam.transforms.comparison.class_mix import changed_most, mix_effect
from odin_beam.transforms.comparison.two_samples import AUROC_LIMIT, KS_LIMIT, auroc_effect, ks_effect
from odin_beam.transforms.comparison.verdicts import LEAST_SHARDS, Effect, judge, shard_limit, together
from odin_beam.transforms.metrics.extreme_rows import row_of
from odin_beam.transforms.metrics.score_histogram import MAX_KEYS, ScoreHistogram, common_bins
from odin_beam.transforms.metrics.summarize_scores import failures
from odin_beam.transforms.shards.shard import Shard

REFERENCE, NEW = "reference", "new"
# The probability that any interval of scores misses the truth, and likewise of the one interval of the class mix.
LEVEL = 0.05
# The threshold of the lower bound: the reference's 5 % quantile.
TPR = 0.95


@dataclass(frozen=True)
class Batch:
    """One source of one run.

    Attributes:
      output: absolute path of the run's folder.
      source: of that run.
      identity: the settings in the run's fingerprint.
    """

    output: str
    source: str
    identity: dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
      reference: the batch that the new one is compared with.
      new: the other batch.
      detectors: whose scores are compared.
      chosen: the one of them for the lower bound and the lowest images.
      sampled: file names of the reference's shards that are compared with all its others.
      state: `scores_state` of the reference's run.
      class_names: by class; empty if unknown.
      launched: seconds since the epoch.
    """

    reference: Batch
    new: Batch
    detectors: tuple[str, ...]
    chosen: str
    sampled: frozenset[str]
    state: str = ""
    class_names: tuple[str, ...] = ()
    launched: float = field(default_factory=time.time)

    def name_of(self, predicted: int) -> str | None:
        """The name of a class; None if it is unknown."""
        return self.class_names[predicted] if predicted < len(self.class_names) else None


@dataclass(frozen=True)
class BatchCounts:
    """Number of shards, and of images by predicted class."""

    shards: int = 0
    classes: Mapping[int, int] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """Number of images."""
        return sum(self.classes.values())


@dataclass(frozen=True)
class ShardEffects:
    """One shard of the reference against all its others.

    Attributes:
      scores: detector -> (AUROC, D).
      mix: total variation of the classes beyond chance, at least 0; None if there are no others.
    """

    scores: Mapping[str, tuple[float, float]]
    mix: float | None


def level_of_interval(detectors: int) -> float:
    """The level of each interval of scores, AUROC's and D's of every detector, so that all hold at once (Bonferroni).

    Args:
      detectors: number of detectors that are compared, at least 1.
    """
    return LEVEL / (2 * detectors)


def calibration_of(histogram: ScoreHistogram) -> CalibrationScores:
    """The reference as calibration, a step for every bin."""
    return CalibrationScores.of(histogram, MAX_KEYS)


def comparison_content(
    comparison: Comparison,
    histograms: Mapping[tuple[str, str], ScoreHistogram],
    counts: Mapping[str, BatchCounts],
    lowest: Sequence[tuple],
    shards: Iterable[ShardEffects],
    flags: FlagCounts,
    failed: Iterable[tuple[Shard, str]],
) -> dict[str, Any]:
    """The content of the file, JSON-compatible.

    Args:
      comparison: what is compared.
      histograms: by `REFERENCE` or `NEW`, and detector.
      counts: by `REFERENCE` or `NEW`.
      lowest: entries of `extreme_rows.extremes`, of new images.
      shards: of the reference, those sampled.
      flags: of the new images, by the reference's 5 % quantile.
      failed: shards that are not in the figures, and why.
    """
    failed, shards = failures(failed), list(shards)
    compared = [d for d in comparison.detectors if (REFERENCE, d) in histograms and (NEW, d) in histograms]
    rows = [_detector(d, histograms, shards, level_of_interval(len(compared))) for d in compared]
    classes = _classes(comparison, counts, shards)
    chosen = calibration_of(histograms[REFERENCE, comparison.chosen]) if comparison.chosen in compared else None
    return {
        "complete": not failed,
        "verdict": together([row["verdict"] for row in [*rows, *([classes] if classes else [])]]),
        REFERENCE: _batch(comparison.reference, counts.get(REFERENCE, BatchCounts())),
        NEW: _batch(comparison.new, counts.get(NEW, BatchCounts())),
        "shards_against_rest": {
            "count": (against := sum(shard.mix is not None for shard in shards)),
            "enough": against >= LEAST_SHARDS,
        },
        "limits": {"auroc": AUROC_LIMIT, "ks": KS_LIMIT},
        "detectors": rows,
        "without_scores": [d for d in comparison.detectors if d not in compared],
        "classes": classes,
        "chosen": comparison.chosen,
        "unlike": None if chosen is None else _unlike(comparison.chosen, chosen, flags),
        "lowest": [] if chosen is None else [_image(comparison, entry, chosen) for entry in lowest],
        "failed_shards": failed,
        "scores_state": comparison.state,
        "seconds": round(time.time() - comparison.launched, 3),
    }


def _batch(batch: Batch, counts: BatchCounts) -> dict[str, Any]:
    return {"scores": batch.output, "source": batch.source, "shards": counts.shards, "images": counts.images}


def _image(comparison: Comparison, entry: tuple, chosen: CalibrationScores) -> dict[str, Any]:
    """One of the images that lie lowest: its row, and its conformal p-value against the reference."""
    row = row_of(entry)
    p_value = float(chosen.p_values(np.array([row["score"]]))[0])
    # Not flagged: these p-values are not those of `flag`.
    own = {name: value for name, value in row.items() if name != "is_ood"}
    return {**own, "class_name": comparison.name_of(row["prediction"]), "p_value": p_value}


def _detector(
    detector: str, histograms: Mapping[tuple[str, str], ScoreHistogram], shards: Sequence[ShardEffects], level: float
) -> dict[str, Any]:
    reference, new = histograms[REFERENCE, detector], histograms[NEW, detector]
    bins = common_bins(reference, new)
    values = [shard.scores[detector] for shard in shards if detector in shard.scores]
    auroc = replace(auroc_effect(bins, level), shards=shard_limit([abs(value - 0.5) for value, _ in values]))
    ks = replace(ks_effect(bins, level), shards=shard_limit([value for _, value in values]))
    return {
        "detector": detector,
        **_verdict([auroc, ks]),
        "reference_images": reference.count,
        "new_images": new.count,
        "exact": reference.exact and new.exact,
        "auroc": _effect(auroc),
        "ks": _effect(ks),
    }


def _verdict(effects: Sequence[Effect]) -> dict[str, Any]:
    found = judge(effects)
    return {"verdict": found.verdict, "reason": found.reason, "images_needed": found.images_needed}


def _effect(effect: Effect) -> dict[str, Any]:
    return {"value": effect.value, "low": effect.low, "high": effect.high, "shards": effect.shards}


def _classes(
    comparison: Comparison, counts: Mapping[str, BatchCounts], shards: Sequence[ShardEffects]
) -> dict[str, Any] | None:
    """How the mix of predicted classes differs; None if a batch has no images."""
    reference, new = (counts.get(side, BatchCounts()).classes for side in (REFERENCE, NEW))
    if not reference or not new:
        return None
    effect = mix_effect(reference, new, LEVEL)
    effect = replace(effect, shards=shard_limit([shard.mix for shard in shards if shard.mix is not None]))
    changed = [{**row, "name": comparison.name_of(row["class"])} for row in changed_most(reference, new)]
    return {**_verdict([effect]), "total_variation": _effect(effect), "changed_most": changed}


def _unlike(chosen: str, calibration: CalibrationScores, flags: FlagCounts) -> dict[str, Any]:
    rule = FlagRule(chosen, calibration, {}, tpr=TPR)
    return {"threshold": calibration.threshold(TPR), **flag_figures(rule, flags)}
