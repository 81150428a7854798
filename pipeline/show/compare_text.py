"""A comparison of two batches as text for people."""

import shlex
from typing import Any

from odin_beam.pipeline.show.columns import names_width
from odin_beam.pipeline.show.flags_text import against_chance
from odin_beam.pipeline.show.plural import plural
from odin_beam.transforms.comparison.verdicts import CANNOT_SAY, LEAST_SHARDS, MOVED
from odin_beam.transforms.text import clipped, printable

# Lines of images, and of shards that are missing.
_IMAGES, _FAILED = 10, 10
_SHOWN_LENGTH = 100


def compare_text(comparison: dict[str, Any]) -> str:
    """The verdict in a sentence, one line per detector, what else is known, and the next command.

    Args:
      comparison: content of the comparison's file.
    """
    new = comparison["new"]
    command = shlex.join(["odin-beam", "top", "--scores", new["scores"], "--source", new["source"]])
    blocks = [
        [verdict_sentence(comparison)],
        _batches(comparison),
        _unlike(comparison),
        _detectors(comparison),
        _classes(comparison),
        _lowest(comparison),
        _failures(comparison),
        [f"next: {command}"],
    ]
    return "\n\n".join("\n".join(map(printable, block)) for block in blocks if block)


def verdict_sentence(comparison: dict[str, Any]) -> str:
    """The verdict, what it rests on, and if it cannot be said, what would help."""
    reference, new = (printable(comparison[side]["source"]) for side in ("reference", "new"))
    parts = _parts(comparison)
    if not parts:
        return f"{CANNOT_SAY}: " + " and ".join(
            f"{source} has no scored images"
            for source, side in ((reference, "reference"), (new, "new"))
            if not comparison[side]["images"]
        )
    by_verdict = [part for part in parts if part["verdict"] == comparison["verdict"]]
    total, detectors = len(comparison["detectors"]), [part for part in by_verdict if "detector" in part]
    mixed = len(detectors) < len(by_verdict)
    which = [*([f"{len(detectors)} of {plural(total, 'detector')}"] if detectors else [])]
    which += ["the mix of predicted classes"] if mixed else []
    if comparison["verdict"] == MOVED:
        return f"{MOVED}: {new} differs from {reference} by {' and by '.join(which)}"
    if comparison["verdict"] != CANNOT_SAY:
        own = comparison["unlike"]
        few = ""
        if own and own["verdict"] == "more":
            least = own["unlike_at_least"]
            few = f", though at least {plural(least, 'image')} {'is' if least == 1 else 'are'} not"
        return f"{comparison['verdict']}: {new} is like {reference} by {' and by '.join(which)}{few}"
    return f"{CANNOT_SAY} whether {new} differs from {reference}, by {' and by '.join(which)}: {_help(by_verdict)}"


def _parts(comparison: dict[str, Any]) -> list[dict[str, Any]]:
    """The detectors, and the mix of classes."""
    return [*comparison["detectors"], *([comparison["classes"]] if comparison["classes"] else [])]


def _help(undecided: list[dict[str, Any]]) -> str:
    lines, needed = [], [part["images_needed"] for part in undecided if part["reason"] == "images"]
    if needed:
        known = [count for count in needed if count is not None]
        lines.append(
            f"about {max(known):,} images of each would tell"
            if len(known) == len(needed)
            else "they are too close to the limit for any number of images to tell"
        )
    if len(needed) < len(undecided):
        lines.append(
            "the reference's own shards differ as much from each other: more shards of it, or larger ones, would help"
        )
    return "; ".join(lines)


def _batches(comparison: dict[str, Any]) -> list[str]:
    lines = []
    for title, batch in (("reference", comparison["reference"]), ("new", comparison["new"])):
        counted = f"{plural(batch['images'], 'image')} in {plural(batch['shards'], 'shard')}"
        lines.append(f"  {title:11}{batch['source']}: {counted} of {batch['scores']}")
    return lines


def _detectors(comparison: dict[str, Any]) -> list[str]:
    rows = comparison["detectors"]
    if not rows:
        return []
    width = names_width(row["detector"] for row in rows)
    measures = f"{'AUROC':>7}{'interval':>16}{'shards':>8}{'D':>8}{'interval':>16}{'shards':>8}"
    lines = [f"  {'detector':{width}}{'verdict':18}{measures}"]
    for row in rows:
        figures = "".join(_figures(row[measure]) for measure in ("auroc", "ks"))
        lines.append(f"  {row['detector']:{width}}{row['verdict']:18}{figures[1:]}{_needed(row)}")
    lines.append(
        "AUROC: above 0.5 if the new images score lower. D: largest difference of the distributions. Relevant: AUROC "
        "beyond 0.45 to 0.55, D above 0.1."
    )
    lines.append(_shards(comparison))
    if comparison["without_scores"]:
        lines.append(f"without scores in one of the batches: {', '.join(comparison['without_scores'])}")
    return lines


def _figures(effect: dict[str, Any]) -> str:
    shards = "" if effect["shards"] is None else f"{effect['shards']:.3f}"
    interval = f"{effect['low']:.3f} to {effect['high']:.3f}"
    return f"{effect['value']:8.3f}{interval:>16}{shards:>8}"


def _needed(part: dict[str, Any]) -> str:
    if part["reason"] == "shards":
        return "   the reference's shards differ as much"
    return f"   about {part['images_needed']:,} images of each" if part["images_needed"] else ""


def _shards(comparison: dict[str, Any]) -> str:
    against = comparison["shards_against_rest"]
    if not against["count"]:
        return (
            "shards: the reference has one shard only, so that what it does by itself is unknown; give it more shards"
        )
    if against["enough"]:
        return (
            f"shards: 95 % of {plural(against['count'], 'shard')} of the reference differ by less from all its others; "
            "a move must exceed this"
        )
    return (
        f"shards: the largest difference of {plural(against['count'], 'shard')} of the reference from all its others, "
        f"which a move must exceed; {LEAST_SHARDS} or more would tell what 95 % of them do"
    )


def _classes(comparison: dict[str, Any]) -> list[str]:
    found = comparison["classes"]
    if not found:
        return []
    effect = found["total_variation"]
    lines = [
        f"predicted classes: {found['verdict']}; total variation {effect['value']:.3f} beyond chance, "
        f"{effect['low']:.3f} to {effect['high']:.3f}{_needed(found)}"
    ]
    changes = [
        f"{class_name(row['class'], row['name'])} {100 * row['reference_share']:.1f} -> {100 * row['new_share']:.1f} %"
        for row in found["changed_most"]
    ]
    return [*lines, f"  most changed: {', '.join(changes)}"]


def class_name(index: int, name: str | None) -> str:
    """A class by its name, else by its index."""
    return f"class {index}" if name is None else printable(clipped(name, _SHOWN_LENGTH))


def _unlike(comparison: dict[str, Any]) -> list[str]:
    own = comparison["unlike"]
    if own is None or own["verdict"] is None:
        return []
    judged = own["images"] - own["without_score"]
    lines = [
        f"{comparison['chosen']}: {own['flagged']:,} of {plural(judged, 'new image')} below the reference's 5 % "
        f"quantile, {against_chance(own, 'the reference', 'it')}"
    ]
    if found := own["clustered"]:
        least = f" and at least {found['unlike_at_least']:,} unlike it" if found["unlike_at_least"] else ""
        lines.append(
            f"  they cluster in shards (design effect {own['design_effect']:.1f}): if by near-duplicates, "
            f"{found['false_flags_low']:,} to {found['false_flags_high']:,} expected{least}"
        )
    return lines


def _lowest(comparison: dict[str, Any]) -> list[str]:
    rows = comparison["lowest"][:_IMAGES]
    if not rows:
        return []
    lines = [f"the new images that lie lowest, by {comparison['chosen']}:", f"  {'p-value':>10}{'score':>14}  id"]
    for row in rows:
        shown = printable(clipped(row["id"], _SHOWN_LENGTH))
        named = class_name(row["prediction"], row["class_name"])
        lines.append(f"  {row['p_value']:10.3g}{row['score']:14.6g}  {shown}  {named}")
    return lines


def _failures(comparison: dict[str, Any]) -> list[str]:
    failed = comparison["failed_shards"]
    if not failed:
        return []
    lines = [f"{plural(len(failed), 'shard')} missing from the comparison; run `score` and then `compare` again:"]
    lines += [f"  {shard['path']}: {shard['reason']}" for shard in failed[:_FAILED]]
    return [*lines, *([f"  and {len(failed) - _FAILED:,} more"] if len(failed) > _FAILED else [])]
