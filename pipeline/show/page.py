"""The report's page: one self-contained HTML file."""

import base64
import hashlib
import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from odin_beam.pipeline.show.compare_text import verdict_sentence
from odin_beam.pipeline.show.metrics_table import FIGURES, damaged_scores
from odin_beam.pipeline.show.plural import plural
from odin_beam.pipeline.show.report_answer import answer, next_commands
from odin_beam.pipeline.show.report_gallery import Picture, row_key
from odin_beam.pipeline.show.report_selection import Part, class_title
from odin_beam.pipeline.show.report_settings import settings_rows
from odin_beam.transforms.storage import paths
from odin_beam.transforms.text import clipped, printable

# Characters of an id or a message on the page.
_SHOWN_LENGTH = 300
_COPIED_LENGTH = 4096


def metrics_rows(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """Pairs and groups for the tables: each figure in percent, its difference from msp, and whether it is the best."""
    tables = []
    titled = [(_pair_title(row), row) for row in metrics["pairs"]]
    titled += [(_group_title(row), row) for row in metrics.get("groups", [])]
    for title, group in itertools.groupby(titled, key=lambda pair: pair[0]):
        rows = [row for _, row in group]
        best = {
            name: (min if metric.lower_is_better else max)(row[name] for row in rows)
            for name, metric in FIGURES.items()
        }
        baseline = next((row for row in rows if row["detector"] == "msp"), None)
        cells = [
            {
                "detector": row["detector"],
                "figures": [
                    {
                        "value": 100 * row[figure],
                        "best": row[figure] == best[figure],
                        "difference": 100 * (row[figure] - baseline[figure])
                        if baseline and row is not baseline
                        else None,
                    }
                    for figure in FIGURES
                ],
            }
            for row in rows
        ]
        names = (rows[0]["in_distribution"], rows[0].get("out_distribution"))
        tables.append({"title": title, "pair": f"{names[0]}+{names[1]}", "rows": cells})
    return tables


def _pair_title(row: dict[str, Any]) -> str:
    counts = (f"{row['in_count']:,}", f"{row['out_count']:,}")
    return f"{row['in_distribution']} ({counts[0]}) against {row['out_distribution']} ({counts[1]})"


def _group_title(row: dict[str, Any]) -> str:
    return f"{row['in_distribution']} against {row['group']}: mean over {', '.join(row['sources'])}"


@dataclass(frozen=True)
class Findings:
    """What a run's files say.

    Attributes:
      output: the run's folder.
      launch: content of `run.json`.
      summary: content of `summary.json`; None where the run is not finished.
      metrics: content of `metrics.json`.
      data: content of `report/data.json`.
      flags: of `run_folder.read_all_flags`.
      comparisons: of `run_folder.read_comparisons`.
      class_names: of the classifier; None where its classes have none.
    """

    output: str
    launch: dict[str, Any]
    summary: dict[str, Any] | None
    metrics: dict[str, Any]
    data: dict[str, Any]
    flags: list[tuple[str | None, dict[str, Any] | None, str | None]]
    comparisons: list[tuple[str, dict[str, Any] | None, str | None]]
    class_names: tuple[str, ...] | None


def report_page(
    found: Findings,
    figures: dict[str, bytes],
    images: list[Part],
    pictures: dict[tuple[str, str, int], Picture],
    problem: str | None,
) -> str:
    """The HTML of a run's report.

    Args:
      found: what the run's files say.
      figures: SVG by name.
      images: of `report_selection.parts`.
      pictures: of these images, of `make_pictures`.
      problem: why there are no activation maps.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["sentence"] = verdict_sentence
    environment.filters["shown"] = lambda text: printable(clipped(str(text), _SHOWN_LENGTH))
    environment.filters["plural"] = plural
    # Commands and paths are to be copied, so what any file system takes is not cut.
    environment.filters["whole"] = lambda text: printable(clipped(str(text), _COPIED_LENGTH))
    environment.filters["seen"] = lambda row: row["class_name"] or class_title(row["prediction"], found.class_names)
    environment.filters["class_title"] = lambda predicted: class_title(predicted, found.class_names)
    environment.filters["file_link"] = file_link
    environment.filters["picture"] = lambda row: pictures[row_key(row)]
    here = Path(__file__)
    template = environment.from_string(here.with_name("report.html.jinja").read_text(encoding="utf-8"))
    data, roles = found.data, found.data["roles"]
    name, flags = next(((name, own) for name, own, _ in found.flags if own and data["flagged"]), (None, None))
    counts = Counter({source: 0 for source in roles})
    for row in data["classes"]:
        counts[row["source"]] += row["count"]
    compared = [own for _, own, _ in found.comparisons if own]
    script = here.with_name("report.js.jinja").read_text(encoding="utf-8")
    return template.render(
        output=found.output,
        settings=settings_rows(found.launch),
        summary=found.summary,
        tables=metrics_rows(found.metrics),
        data=data,
        answer=answer(found.output, roles, counts, found.metrics, data["ranked_by"], flags),
        commands=next_commands(found.output, roles, flags, name, compared),
        damaged=damaged_scores(data["damaged_scores"]),
        figures={
            name: "data:image/svg+xml;base64," + base64.b64encode(content).decode() for name, content in figures.items()
        },
        parts=images,
        has_maps=any(picture.overlay for picture in pictures.values()),
        problem=problem,
        flags=found.flags,
        comparisons=found.comparisons,
        style=Markup(here.with_name("report.css.jinja").read_text(encoding="utf-8")),
        # The page holds text from outside: nothing but this very script can run in it.
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def file_link(uri: str | None) -> str | None:
    """A `file:` URI of an image that is a file of its own on this machine; None for any other."""
    if uri is None or not paths.is_local(uri) or not uri.startswith("/") or "#" in uri:
        return None
    return "file://" + quote(uri, errors="surrogateescape")
