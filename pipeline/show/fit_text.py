"""What a fit found, as text for people."""

from collections.abc import Sequence
from typing import Any

from odin_beam.pipeline.show.plural import plural

# Classes that are listed.
_LISTED = 20


def fit_text(summary: dict[str, Any], names: Sequence[str] | None = None) -> str:
    """Images and accuracy of each class, the detectors that there are and why others are not, the file.

    Args:
      summary: content of `summary.json`.
      names: of the classes.
    """
    fit = summary["fit"]
    size = fit["bytes"] / 1e6
    lines = [
        *_sources(summary),
        *_classes(fit["classes"], fit["classes_from"], names),
        "",
        *_detectors(fit),
        "",
        f"reference: {fit['reference']} ({size:,.1f} MB), fitted to {plural(fit['images'], 'image')}, with a bank of "
        f"{fit['bank_images']:,} (k = {fit['knn_k']} for knn, {fit['nnguide_k']} for nnguide)",
    ]
    return "\n".join(lines)


def _sources(summary: dict[str, Any]) -> list[str]:
    lines = []
    for name, source in summary["sources"].items():
        rejected = f", {source['rejected']:,} rejected" if source["rejected"] else ""
        lines.append(f"{name}: {plural(source['scored'], 'image')} in {plural(source['shards'], 'shard')}{rejected}")
    return lines


def _classes(classes: dict[str, list[int]], origin: dict[str, int], names: Sequence[str] | None) -> list[str]:
    said = "labels" if not origin["predictions"] else "predictions, since there are no labels"
    if origin["labels"] and origin["predictions"]:
        said = f"labels of {origin['labels']:,} images, predictions of {origin['predictions']:,} without one"
    rows = []
    for index, (images, labelled, correct) in enumerate(zip(*classes.values(), strict=True)):
        rows.append((correct / labelled if labelled else 1.0, images, labelled, index))
    rows.sort()
    name = {row[3]: f"{row[3]} {names[row[3]]}" if names else str(row[3]) for row in rows}
    width = max(5, *(len(name[row[3]]) for row in rows[:_LISTED]))
    lines = [f"classes, from {said}:", "", f"  {'class':{width}}    images  accuracy"]
    for accuracy, images, labelled, index in rows[:_LISTED]:
        share = f"{100 * accuracy:8.2f} %" if labelled else "         -"
        lines.append(f"  {name[index]:{width}}{images:10,}{share}")
    if rest := rows[_LISTED:]:
        lines.append(f"  and {len(rest):,} more with {sum(row[1] for row in rest):,} images")
    if empty := sum(not row[1] for row in rows):
        lines.append(f"  without images, so that no image is found near to them: {empty:,} of {len(rows):,}")
    return lines


def _detectors(fit: dict[str, Any]) -> list[str]:
    lines = [f"detectors: {', '.join(fit['detectors']) or 'none'}"]
    reasons: dict[str, list[str]] = {}
    for detector, reason in fit["unavailable"].items():
        reasons.setdefault(reason, []).append(detector)
    lines += [f"not available: {', '.join(found)}: {reason}" for reason, found in reasons.items()]
    if found := [name for name in fit["regularised"] if name not in fit["discouraged"]]:
        lines.append(
            f"few images for {', '.join(found)}: fewer than 5 per feature, so their covariances were regularised"
        )
    if found := fit["discouraged"]:
        lines.append(
            f"too few images for {', '.join(found)}: fewer than features, so their covariances are a guess; they will "
            "not be recommended"
        )
    return lines
