"""`flags.json` as text for people."""

from typing import Any

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
    remarks = [*_expectations(flags), *_failures(flags)]
    return "\n".join([*lines, *([""] if remarks else []), *remarks])


def _rule(flags: dict[str, Any]) -> str:
    rule, calibration = flags["rule"], flags["calibration"]
    against = f"{calibration['images']:,} images of {', '.join(calibration['sources'])}"
    classes = f", {flags['classes_with_own_scores']:,} classes calibrated separately" if flags["per_class"] else ""
    if "tpr" in rule:
        said = "" if flags["per_class"] else f" below {rule['threshold']:.9g}"
        return f"flagged by {flags['detector']}{said}: TPR {rule['tpr']:g} of {against}{classes}"
    return f"flagged by {flags['detector']}, false discovery rate {rule['fdr']:g}, against {against}{classes}"


def _expectations(flags: dict[str, Any]) -> list[str]:
    rule = flags["rule"]
    if "tpr" not in rule:
        return _discoveries(rule)
    lines = []
    for name, own in flags["sources"].items():
        if own["role"] == "input" and own["images"]:
            low, high = own["false_flags_low"], own["false_flags_high"]
            lines.append(
                f"if all of {name} were in-distribution, {own['false_flags']:,.0f} flags would be expected "
                f"(95 % interval {low:,.0f} to {high:,.0f}): these may be false alarms"
            )
    count = flags["calibration"]["images"]
    if (1 - rule["tpr"]) * (count + 1) < 1:
        lines.append(
            f"warning: {count:,} calibration images cannot distinguish a TPR of {rule['tpr']:g} from 1: with the "
            f"lowest of their scores as the threshold, {100 / (count + 1):.2g} % of new in-distribution images are "
            "flagged"
        )
    return lines


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
