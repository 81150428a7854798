"""`flags.json`: counts and rates by source, what to expect, and which scores the flags belong to."""

import hashlib
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from odin_beam.transforms.calibration.expected_flags import Group, Spread, flags_to_expect, unlike_at_least
from odin_beam.transforms.calibration.flag_rule import FlagRule
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables import scores_file


@dataclass(frozen=True)
class FlagCounts:
    """Counts over some shards of a source.

    Attributes:
      shards: number of flagged shards.
      images: rows in the flags files.
      without_score: images without a score from the detector.
      flagged: images that are flagged.
      without_calibration: images of classes with too few calibration scores to compare with.
      class_images: predicted class -> images with a score, for the classes that have calibration scores of their own.
      judged_shards: shards with at least one score.
      squares: sum over these shards of flagged ** 2 / images with a score, see `expected_flags.Spread`.
    """

    shards: int = 0
    images: int = 0
    without_score: int = 0
    flagged: int = 0
    without_calibration: int = 0
    class_images: Mapping[int, int] = field(default_factory=dict)
    judged_shards: int = 0
    squares: float = 0.0

    @property
    def judged(self) -> int:
        """Images with a p-value."""
        return self.images - self.without_score - self.without_calibration

    @property
    def share(self) -> float | None:
        """Flagged share of the judged images; None if there are none."""
        return self.flagged / self.judged if self.judged else None

    def of_one_shard(self) -> "FlagCounts":
        """The same counts, those of one whole shard."""
        squares = self.flagged**2 / self.judged if self.judged else 0.0
        return replace(self, shards=1, judged_shards=int(self.judged > 0), squares=squares)


def add_up_flags(counts: Iterable[FlagCounts]) -> FlagCounts:
    """The sum of counts, field by field."""
    counts, class_images = list(counts), Counter()
    for part in counts:
        class_images.update(part.class_images)
    return FlagCounts(
        shards=sum(part.shards for part in counts),
        images=sum(part.images for part in counts),
        without_score=sum(part.without_score for part in counts),
        flagged=sum(part.flagged for part in counts),
        without_calibration=sum(part.without_calibration for part in counts),
        class_images=dict(class_images),
        judged_shards=sum(part.judged_shards for part in counts),
        # Exact, so that the order in which shards finish does not matter.
        squares=math.fsum(part.squares for part in counts),
    )


@dataclass(frozen=True)
class Discoveries:
    """The result of Benjamini and Hochberg's rule.

    Attributes:
      images: m, the number of p-values.
      largest_p: the largest p-value that is flagged; 0 flags nothing.
    """

    images: int
    largest_p: float


def archive_sources(roles: Mapping[str, str]) -> list[str]:
    """The sources over which false discoveries are counted: those with role `input`, or all if there are none."""
    return [source for source, role in roles.items() if role == "input"] or list(roles)


def scores_state(settings: dict[str, Any], shards: Iterable[Shard]) -> str:
    """SHA-256, in hex, of everything that determines a run's rows: if it differs, the flags belong to other scores."""
    fingerprints = sorted((s.source, s.file_name, scores_file.fingerprint(settings, s)) for s in shards)
    return hashlib.sha256(json.dumps(fingerprints).encode()).hexdigest()


@dataclass(frozen=True)
class FlagFacts:
    """What `flags.json` says besides the counts.

    Attributes:
      calibration: path and origin of the calibration, JSON-compatible.
      per_class: whether thresholds by predicted class were requested.
      launched: seconds since the epoch; defaults to now.
    """

    calibration: dict[str, Any] = field(default_factory=dict)
    per_class: bool = False
    launched: float = field(default_factory=time.time)


def flags_summary(
    rule: FlagRule,
    roles: Mapping[str, str],
    facts: FlagFacts,
    state: str,
    counts: Mapping[str, FlagCounts],
    failed: Iterable[tuple[Shard, str]],
    discoveries: Discoveries | None,
) -> dict[str, Any]:
    """The content of `flags.json`, JSON-compatible.

    `realised_tpr` is the share of an in-distribution source that is not flagged, `realised_fpr` that of an
    out-of-distribution source, as in the metrics: the positive class is in-distribution.
    """
    failed = sorted(failed, key=lambda pair: (pair[0].source, pair[0].path))
    sources = {}
    for source, role in roles.items():
        source_counts = counts.get(source, FlagCounts())
        accepted = None if source_counts.share is None else 1 - source_counts.share
        rates = {"in_distribution": "realised_tpr", "out_distribution": "realised_fpr"}
        sources[source] = {"role": role, **flag_figures(rule, source_counts)}
        if role in rates:
            sources[source][rates[role]] = accepted
    return {
        "complete": not failed,
        "detector": rule.detector,
        "together": _together(rule, roles, counts),
        "rule": _described(rule, roles, counts, discoveries),
        "per_class": facts.per_class,
        "classes_with_own_scores": len(rule.by_class),
        "calibration": facts.calibration,
        "failed_shards": [{"source": shard.source, "path": shard.path, "reason": why} for shard, why in failed],
        "sources": sources,
        "seconds": round(time.time() - facts.launched, 3),
        "scores_state": state,
    }


def flag_figures(rule: FlagRule, counts: FlagCounts) -> dict[str, Any]:
    """The counts, and what to expect of the rule; null with a false discovery rate, which promises no such number.

    Args:
      rule: which images are flagged.
      counts: of images that are judged as one batch.
    """
    figures = {
        "shards": counts.shards,
        "images": counts.images,
        "without_score": counts.without_score,
        "without_calibration": counts.without_calibration,
        "flagged": counts.flagged,
        "share": counts.share,
        "false_flags": None,
        "false_flags_low": None,
        "false_flags_high": None,
        "unlike_at_least": None,
        "design_effect": None,
        "clustered": None,
        "verdict": None,
    }
    if rule.tpr is None or not counts.judged:
        return figures
    groups = rule.groups(counts.judged, counts.class_images)
    spread = Spread(counts.judged_shards, counts.judged, counts.flagged, counts.squares)
    expected = _expected(groups, counts.flagged)
    low, high = expected["false_flags_low"], expected["false_flags_high"]
    return figures | {
        "false_flags": sum(group.expected for group in groups),
        **expected,
        "design_effect": spread.design,
        "clustered": _clustered(groups, spread) if spread.clustered else None,
        "verdict": "more" if counts.flagged > high else "fewer" if counts.flagged < low else "as_expected",
    }


def _expected(groups: Sequence[Group], flagged: int, design: float = 1.0) -> dict[str, int]:
    """The interval of the number of flags, and the lower bound of the images that are unlike, if there are more flags.

    The bound is one-sided, so that it is above 0 for some numbers of flags within the two-sided interval. Of these, one
    file would say both that they are no evidence and that some image is unlike: the bound is 0 there, and still holds.
    """
    low, high = flags_to_expect(groups, design)
    least = unlike_at_least(groups, flagged, design) if flagged > high else 0
    return {"false_flags_low": low, "false_flags_high": high, "unlike_at_least": least}


def _clustered(groups: Sequence[Group], spread: Spread) -> dict[str, Any]:
    """What holds if the flags cluster by near-duplicates.

    Shards of foreign images cluster the flags as well, and there the figures for independent images hold: which of the
    two it is, counts cannot tell, so these figures stand beside the others and change no verdict.
    """
    images = max(1, math.floor(spread.images / spread.design))
    return {"images": images, **_expected(groups, spread.flagged, spread.design)}


def _together(rule: FlagRule, roles: Mapping[str, str], counts: Mapping[str, FlagCounts]) -> dict[str, Any] | None:
    """The figures of all `input` sources as one archive; None if there are fewer than two."""
    inputs = [source for source, role in roles.items() if role == "input"]
    if len(inputs) < 2:
        return None
    total = add_up_flags(counts[source] for source in inputs if source in counts)
    return {"sources": inputs, **flag_figures(rule, total)}


def _described(
    rule: FlagRule, roles: Mapping[str, str], counts: Mapping[str, FlagCounts], discoveries: Discoveries | None
) -> dict[str, Any]:
    if discoveries is None and rule.by_class:
        # Every class has its own.
        return {"tpr": rule.tpr, "threshold": None, "expected_tpr": None, "realised_tpr": None}
    if discoveries is None:
        expected, low, high = rule.calibration.realised_tpr(rule.tpr)
        threshold = rule.calibration.threshold(rule.tpr)
        return {"tpr": rule.tpr, "threshold": threshold, "expected_tpr": expected, "realised_tpr": [low, high]}
    archive = archive_sources(roles)
    flagged = {source: counts[source].flagged for source in archive if source in counts}
    known = all(roles[source] != "input" for source in archive)
    false = sum(count for source, count in flagged.items() if roles[source] == "in_distribution")
    compared = [scores for scores in (rule.calibration, *rule.by_class.values()) if scores is not None]
    smallest = min(1 / (1 + scores.count) for scores in compared)
    return {
        "fdr": rule.fdr,
        "largest_p_value": discoveries.largest_p,
        "smallest_possible_p_value": smallest,
        "images": discoveries.images,
        "sources": archive,
        "flagged": sum(flagged.values()),
        "false_discovery_share": false / total if known and (total := sum(flagged.values())) else None,
    }
