"""`metrics.json` and `summary.json` as text for people."""

from collections.abc import Iterable
from typing import Any

from odin_beam.pipeline.show.columns import names_width
from odin_beam.pipeline.show.plural import plural
from odin_beam.transforms.metrics.detection_metrics import METRICS
from odin_beam.transforms.text import printable

# The metrics that are shown, by name.
FIGURES = {name: metric for name, metric in METRICS.items() if metric.shown}


def metrics_table(metrics: dict[str, Any]) -> str:
    """One block per pair of sources and per group, one line per detector, in percent."""
    lines = []
    for name, source in metrics["in_distribution"].items():
        accuracy = source["accuracy"]
        said = "no labels" if accuracy is None else f"accuracy {100 * accuracy:.2f} %"
        lines.append(f"{name}: {source['count']:,} in-distribution images, {said}")
    blocks: dict[str, list[dict[str, Any]]] = {}
    for row in metrics["pairs"]:
        inside, outside = row["in_distribution"], row["out_distribution"]
        title = f"{inside} ({row['in_count']:,}) against {outside} ({row['out_count']:,}), percent:"
        blocks.setdefault(title, []).append(row)
    for row in metrics.get("groups", []):
        title = f"{row['in_distribution']} against {row['group']}, mean over {', '.join(row['sources'])}, percent:"
        blocks.setdefault(title, []).append({**row, "exact": True})
    for title, rows in blocks.items():
        width = names_width(row["detector"] for row in rows)
        lines += ["", title]
        lines.append("  " + " " * width + "".join(f"{metric.short:>11}" for metric in FIGURES.values()))
        for row in rows:
            mark = "" if row["exact"] else "  (within the bounds in metrics.json)"
            figures = "".join(f"{100 * row[column]:11.2f}" for column in FIGURES)
            lines.append(f"  {row['detector']:{width}}{figures}{mark}")
    if blocks:
        lines += ["", "FPR@95TPR and det. error: lower is better. Positive class: in-distribution."]
    return "\n".join(map(printable, lines))


def summary_text(summary: dict[str, Any]) -> str:
    """Records and shards of each source, and what went wrong."""
    lines = []
    for name, source in summary["sources"].items():
        rejected = f", {source['rejected']:,} rejected" if source["rejected"] else ""
        lines.append(f"{name}: {source['scored']:,} images scored in {plural(source['shards'], 'shard')}{rejected}")
    if not summary["calibrated"]:
        settings = summary["settings"]["odin"]
        lines.append(
            f"untuned: temperature {settings['temperature']:g} and epsilon {settings['epsilon']:g} were given or are "
            "the defaults, not fitted to this classifier"
        )
    return "\n".join(map(printable, [*lines, *problems(summary)]))


def problems(summary: dict[str, Any]) -> list[str]:
    """Lines about shards that failed and scores whose shard was removed; empty if there are none."""
    failed = _some(
        [f"{shard['path']}: {shard['reason']}" for shard in summary["failed_shards"]],
        "failed, missing from the results; run the same command again to retry",
        "shard",
    )
    orphans = _some(summary["orphaned_scores"], "belong to inputs that were removed; ignored", "scores file")
    return [*failed, *orphans]


def damaged_scores(damaged: list[dict[str, str]]) -> list[str]:
    """Lines about scores files that were not read; empty if there are none.

    Args:
      damaged: `damaged_scores` of `metrics.json` or of the report's data.
    """
    reasons = [shard["reason"] for shard in damaged]
    return _some(reasons, "damaged or of other settings, missing from the results", "scores file")


def _some(items: Iterable[str], what: str, noun: str, most: int = 10) -> list[str]:
    items = list(items)
    if not items:
        return []
    more = [f"  and {len(items) - most:,} more, see summary.json"] if len(items) > most else []
    return [f"{plural(len(items), noun)} {what}:", *(f"  {item}" for item in items[:most]), *more]
