"""What labels say of the flags, as text for people."""

from collections.abc import Sequence
from typing import Any

from odin_beam.pipeline.show.plural import plural
from odin_beam.transforms.ranking.review import WIDE, Estimate, Review


def review_text(found: Review, flags: dict[str, Any], sources: Sequence[str], left_out: int) -> str:
    """The labels, the three figures, and what is still open.

    Args:
      found: the estimates.
      flags: content of `flags.json`.
      sources: that were sampled.
      left_out: labelled images that do not judge the flags.
    """
    flagged, unflagged = found.flagged, found.unflagged
    total = flagged.images + unflagged.images
    lines = [
        f"{', '.join(sources)}, flagged by {flags['detector']}: labelled {flagged.labelled:,} of "
        f"{flagged.images:,} flagged images, {flagged.foreign:,} of them foreign, and {unflagged.labelled:,} of "
        f"{unflagged.images:,} others, {unflagged.foreign:,} of them foreign",
    ]
    if left_out:
        lines.append(f"{plural(left_out, 'labelled image')} moved the threshold or has no flag, and is left out")
    count = [round(total * end) for end in (found.prevalence.low, found.prevalence.high)]
    lines += [
        "",
        _line("precision", found.precision, "of the flagged images are foreign"),
        _line(
            "foreign", found.prevalence, f"of all {total:,} images, {count[0]:,} to {count[1]:,} of them, are foreign"
        ),
        _line("recall", found.recall, "of the foreign images are flagged"),
        "",
        _open(found),
    ]
    return "\n".join(lines)


def _line(name: str, estimate: Estimate, meaning: str) -> str:
    value = "unknown" if estimate.value is None else f"{100 * estimate.value:.1f} %"
    interval = f"({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"
    return f"  {name:10}{value:>9}  {interval:17}  {meaning}"


def _open(found: Review) -> str:
    width = found.recall.high - found.recall.low
    said = "each interval holds with 95 %; those of foreign and recall at the same time"
    if found.more == 0:
        return said
    if found.more is None:
        if found.flagged.labelled < found.flagged.images:
            return f"{said}; recall is known only to within {100 * width:.0f} points: label more of the flagged images"
        return f"{said}; no foreign image was found, so there is nothing to recall"
    return (
        f"{said}; recall is known only to within {100 * width:.0f} points: label about {found.more:,} more unflagged "
        f"images to know it to within {100 * WIDE:.0f}"
    )
