"""`flags.json` as text for people."""

from typing import Any

from odin_beam.transforms.calibration.flags_summary import archive_sources
from odin_beam.transforms.text import printable

_RATES = {"in_distribution": ("realised_tpr", "TPR"), "out_distribution": ("realised_fpr", "FPR")}


def flags_text(flags: dict[str, Any]) -> str:
    """The rule, one line per source, and what to expect of it.

    Args:
      flags: content of `flags.json`.
    """
    lines = [_rule(flags), "", f"  {'source':20}{'role':18}{'images':>13}{'flagged':>13}{'share':>10}"]
    for name, own in flags["sources"].items():
        share = "" if own["share"] is None else f"{100 * own['share']:.2f} %"
        rate = ""
        if own["role"] in _RATES and own["share"] is not None:
            key, title = _RATES[own["role"]]
            rate = f"   {title} {100 * own[key]:.2f} %"
        lines.append(f"  {name:20}{own['role']:18}{own['images']:>13,}{own['flagged']:>13,}{share:>10}{rate}")
    for name, own in flags["sources"].items():
        if own["without_score"]:
            lines.append(f"  {name}: {own['without_score']:,} images have no such score, and so no flag")
        if own["without_calibration"]:
            lines.append(
                f"  {name}: {own['without_calibration']:,} images have no flag: the calibration has fewer than 100 "
                "images of their predicted class, and of all such classes together"
            )
    parts = [[*_limits(flags), *_failures(flags)], _verdicts(flags)]
    return "\n\n".join("\n".join(map(printable, part)) for part in [lines, *parts] if part)


def _rule(flags: dict[str, Any]) -> str:
    rule, calibration = flags["rule"], flags["calibration"]
    against = f"{calibration['images']:,} images of {', '.join(calibration['sources'])}"
    classes = f", {flags['classes_with_own_scores']:,} classes calibrated separately" if flags["per_class"] else ""
    if "tpr" in rule:
        said = "" if flags["per_class"] else f" below {rule['threshold']:.9g}"
        return f"flagged by {flags['detector']}{said}: TPR {rule['tpr']:g} of {against}{classes}"
    return f"flagged by {flags['detector']}, false discovery rate {rule['fdr']:g}, against {against}{classes}"


def _limits(flags: dict[str, Any]) -> list[str]:
    """What the calibration is too small for."""
    rule, count = flags["rule"], flags["calibration"]["images"]
    if "tpr" not in rule:
        return _discoveries(rule)
    if (1 - rule["tpr"]) * (count + 1) < 1:
        return [
            f"warning: {count:,} calibration images cannot distinguish a TPR of {rule['tpr']:g} from 1: with the "
            f"lowest of their scores as the threshold, {100 / (count + 1):.2g} % of new in-distribution images are "
            "flagged"
        ]
    return []


def _verdicts(flags: dict[str, Any]) -> list[str]:
    """Whether there are more flags than chance explains, by source of the archive, and for all together."""
    if "tpr" not in flags["rule"]:
        return [_verdict_of_discoveries(flags["rule"])]
    sources = flags["sources"]
    parts = [(name, sources[name]) for name in archive_sources({name: own["role"] for name, own in sources.items()})]
    if flags["together"]:
        parts.append(("all inputs together", flags["together"]))
    return [line for name, own in parts if own["verdict"] for line in _verdict(name, own)]


def against_chance(own: dict[str, Any], known: str, them: str) -> str:
    """How many flags to expect, and whether there are more.

    Args:
      own: of `flags_summary.flag_figures`, with a verdict.
      known: what the images are compared with, such as `the calibration images`.
      them: its pronoun.
    """
    least = own["unlike_at_least"]
    words = {
        "more": f"more than chance: at least {least:,} {'is' if least == 1 else 'are'} unlike {them}",
        "fewer": f"fewer than expected: not drawn like {known}, but not by low scores",
        "as_expected": "no evidence",
    }
    return (
        f"{own['false_flags_low']:,} to {own['false_flags_high']:,} expected if all were like {known}: "
        f"{words[own['verdict']]}"
    )


def _verdict(name: str, own: dict[str, Any]) -> list[str]:
    judged = own["images"] - own["without_score"] - own["without_calibration"]
    expected = against_chance(own, "the calibration images", "them")
    lines = [f"{name}: {own['flagged']:,} of {judged:,} flagged, {expected}"]
    if found := own["clustered"]:
        lines.append(
            f"  flags cluster in shards (design effect {own['design_effect']:.1f}): if by near-duplicates, {judged:,} "
            f"images count as {found['images']:,}, with {found['false_flags_low']:,} to {found['false_flags_high']:,} "
            f"flags expected and at least {found['unlike_at_least']:,} unlike them; if not, the line above holds"
        )
    return lines


def _verdict_of_discoveries(rule: dict[str, Any]) -> str:
    said = f"{', '.join(rule['sources'])}: {rule['flagged']:,} of {rule['images']:,} flagged"
    if not rule["flagged"]:
        return f"{said}: no evidence at a false discovery rate of {rule['fdr']:g}"
    return (
        f"{said}: more than chance: if all were like the calibration images, any flag at all would have a probability "
        f"of at most {100 * rule['fdr']:g} %"
    )


def _discoveries(rule: dict[str, Any]) -> list[str]:
    sources, smallest = ", ".join(rule["sources"]), rule["smallest_possible_p_value"]
    lines = [
        f"of the {rule['flagged']:,} flagged in {sources}, at most {100 * rule['fdr']:g} % are expected to be "
        f"in-distribution (largest p-value flagged: {rule['largest_p_value']:.3g})"
    ]
    if (share := rule["false_discovery_share"]) is not None:
        lines.append(f"of these, {100 * share:.2f} % are in-distribution")
    least = smallest / rule["fdr"]
    lines.append(
        f"power limit: no p-value is below 1/(n + 1) = {smallest:.3g}, so nothing is flagged unless {100 * least:.3g} %"
        f" of the {rule['images']:,} images, {least * rule['images']:,.0f}, score below all calibration images"
    )
    return lines


def _failures(flags: dict[str, Any]) -> list[str]:
    failed, shown = flags["failed_shards"], 10
    if not failed:
        return []
    lines = [f"{len(failed):,} shards have no flags; run `score` and then `flag` again:"]
    lines += [f"  {shard['path']}: {shard['reason']}" for shard in failed[:shown]]
    return [*lines, *([f"  and {len(failed) - shown:,} more, see flags.json"] if len(failed) > shown else [])]
