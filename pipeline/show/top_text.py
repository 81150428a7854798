"""The images that `top` found, as a table for people and as CSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from odin_beam.pipeline.show.plural import plural
from odin_beam.transforms.ranking.first_rows import HIGHEST, RANDOM, Ranking
from odin_beam.transforms.ranking.review import DRAW, FOREIGN
from odin_beam.transforms.text import clipped, csv_cell, printable

_COLUMNS = (
    *("place", "source", "id", "uri", "class_name", "prediction", "label", "score", "p_value", "is_ood"),
    *("shard", "index", "copy"),
)
_TEXTS = ("source", "id", "uri", "class_name", "shard", "copy")
_CLASS_WIDTH = 24


def top_text(rows: Sequence[dict[str, Any]], ranking: Ranking) -> str:
    """What is shown, and a line per image; of a sample to be labelled without what would sway a person."""
    if not rows:
        return "no image to show: none has a score of that detector, source and class"
    lines = [_title(rows, ranking), ""]
    shows_score, shows_p = ranking.order != RANDOM, ranking.order != RANDOM and ranking.flagged
    names, sources = [_class(row) for row in rows], {row["source"] for row in rows}
    widths = {"class": max(5, *map(len, names)), "source": max(6, *map(len, sources)) if len(sources) > 1 else 0}

    def line(place: Any, p_value: str, score: str, name: str, source: str, image: str) -> str:
        parts = [f"{place:>6}", f"{p_value:>9}" if shows_p else "", f"{score:>12}" if shows_score else ""]
        return (
            "".join(
                [*parts, f"  {name:{widths['class']}}", f"  {source:{widths['source']}}" if widths["source"] else ""]
            )
            + f"  {image}"
        )

    lines.append(line("", "p-value", "score", "class", "source", "image"))
    for place, (row, name) in enumerate(zip(rows, names, strict=True), 1):
        p_value = "" if row["p_value"] is None else f"{row['p_value']:.2g}"
        lines.append(line(place, p_value, f"{row['score']:.6g}", name, printable(row["source"]), printable(row["id"])))
    if all(row["class_name"] is None for row in rows):
        lines += ["", "classes are indexes: give score --class_names FILE, one name a line, to have names"]
    return "\n".join(lines)


def _title(rows: Sequence[dict[str, Any]], ranking: Ranking) -> str:
    images = plural(len(rows), "image")
    if ranking.order == RANDOM:
        flagged = sum(row["is_ood"] for row in rows)
        others = len(rows) - flagged
        return f"{images} by chance, {flagged:,} of those flagged by {ranking.detector} and {others:,} of the others"
    end = "most" if ranking.order == HIGHEST else "least"
    return f"the {images} {end} like what the classifier knows, by {ranking.detector}"


def _class(row: dict[str, Any]) -> str:
    return str(row["prediction"]) if row["class_name"] is None else clipped(printable(row["class_name"]), _CLASS_WIDTH)


def top_csv(rows: Sequence[dict[str, Any]], draw: str | None) -> str:
    """The rows as CSV; with an empty column `foreign` if a person is to label them, and without what would sway them.

    Args:
      rows: of the images.
      draw: of the sample that they are, see `draw_of`; None if they are none.
    """
    columns = _columns(draw is not None, any("copy" in row for row in rows))
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer)
    table.writerow(columns)
    for place, row in enumerate(rows, 1):
        own = {"copy": None, **row, "place": place, FOREIGN: None, DRAW: draw}
        table.writerow(
            [csv_cell(own[name]) if name in _TEXTS and own[name] is not None else own[name] for name in columns]
        )
    return buffer.getvalue()


def is_top_csv(data: bytes) -> bool:
    """Whether a file begins as a table of ours does."""
    headers = (_columns(to_label, copied) for to_label in (False, True) for copied in (False, True))
    return data.partition(b"\r\n")[0] in {",".join(header).encode() for header in headers}


def _columns(to_label: bool, copied: bool) -> list[str]:
    hidden = {"score", "p_value", "is_ood"} if to_label else set()
    shown = [name for name in _COLUMNS if name not in hidden and (copied or name != "copy")]
    return [FOREIGN, *shown, DRAW] if to_label else shown
