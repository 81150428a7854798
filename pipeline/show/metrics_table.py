"""`metrics.json` and `summary.json` as text for people."""

from collections.abc import Iterable
from typing import Any

_COLUMNS = {
    "fpr_at_95_tpr": "FPR@95TPR",
    "detection_error": "det. error",
    "auroc": "AUROC",
    "aupr_in": "AUPR-In",
    "aupr_out": "AUPR-Out",
}


def metrics_table(metrics: dict[str, Any]) -> str:
    """One block per pair of sources, one line per detector, in percent."""
    lines = []
    for name, source in metrics["in_distribution"].items():
        accuracy = source["accuracy"]
        said = "no labels" if accuracy is None else f"accuracy {100 * accuracy:.2f} %"
        lines.append(f"{name}: {source['count']:,} in-distribution images, {said}")
    pairs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in metrics["pairs"]:
        pairs.setdefault((row["in_distribution"], row["out_distribution"]), []).append(row)
    for (inside, outside), rows in pairs.items():
        lines += ["", f"{inside} ({rows[0]['in_count']:,}) against {outside} ({rows[0]['out_count']:,}), percent:"]
        lines.append("  " + " " * 12 + "".join(f"{title:>11}" for title in _COLUMNS.values()))
        for row in rows:
            mark = "" if row["exact"] else "  (within the bounds in metrics.json)"
            figures = "".join(f"{100 * row[column]:11.2f}" for column in _COLUMNS)
            lines.append(f"  {row['detector']:12}{figures}{mark}")
    if pairs:
        lines += ["", "FPR@95TPR and det. error: lower is better. Positive class: in-distribution."]
    return "\n".join(lines)


def summary_text(summary: dict[str, Any]) -> str:
    """What happened to the records and shards, source by source, and what went wrong."""
    lines = []
    for name, source in summary["sources"].items():
        rejected = f", {source['rejected']:,} rejected" if source["rejected"] else ""
        lines.append(f"{name}: {source['scored']:,} images scored in {_plural(source['shards'], 'shard')}{rejected}")
    if not summary["calibrated"]:
        settings = summary["settings"]["odin"]
        lines.append(
            f"untuned: temperature {settings['temperature']:g} and epsilon {settings['epsilon']:g} were given or are "
            "the defaults, not fitted to this classifier"
        )
    return "\n".join([*lines, *problems(summary)])


def problems(summary: dict[str, Any]) -> list[str]:
    """Lines about shards that failed and scores whose shard is no longer there; none where all is well."""
    failed = _some(
        [f"{shard['path']}: {shard['reason']}" for shard in summary["failed_shards"]],
        "failed and not in the results; the same command tries again",
        "shard",
    )
    orphans = _some(summary["orphaned_scores"], "of inputs that are no longer there, not in the metrics", "scores file")
    return [*failed, *orphans]


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def _some(items: Iterable[str], what: str, noun: str, most: int = 10) -> list[str]:
    items = list(items)
    if not items:
        return []
    more = [f"  and {len(items) - most:,} more, see summary.json"] if len(items) > most else []
    return [f"{_plural(len(items), noun)} {what}:", *(f"  {item}" for item in items[:most]), *more]
