"""The report's page: one self-contained HTML file."""

import base64
import itertools
from pathlib import Path
from typing import Any

import jinja2

from odin_beam.pipeline.show.compare_text import verdict_sentence
from odin_beam.pipeline.show.metrics_table import FIGURES, damaged_scores
from odin_beam.pipeline.show.report_gallery import Picture
from odin_beam.transforms.text import clipped, printable

# Characters of an id or a message on the page.
_SHOWN_LENGTH = 300


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
        tables.append({"title": title, "figure": f"roc-{names[0]}+{names[1]}", "rows": cells})
    return tables


def _pair_title(row: dict[str, Any]) -> str:
    counts = (f"{row['in_count']:,}", f"{row['out_count']:,}")
    return f"{row['in_distribution']} ({counts[0]}) against {row['out_distribution']} ({counts[1]})"


def _group_title(row: dict[str, Any]) -> str:
    return f"{row['in_distribution']} against {row['group']}: mean over {', '.join(row['sources'])}"


def report_page(
    output: str,
    launch: dict[str, Any],
    summary: dict[str, Any] | None,
    metrics: dict[str, Any],
    data: dict[str, Any],
    figures: dict[str, bytes],
    galleries: dict[str, dict[str, list[Picture]]],
    problem: str | None,
    flags: list[tuple[str | None, dict[str, Any] | None, str | None]],
    comparisons: list[tuple[str, dict[str, Any] | None, str | None]],
) -> str:
    """The HTML of a run's report.

    Args:
      output: the run's folder.
      launch: content of `run.json`.
      summary: content of `summary.json`; None where the run is not finished.
      metrics: content of `metrics.json`.
      data: of `report_data`.
      figures: SVG by name.
      galleries: pictures by source and end of the ranking.
      problem: why there are no pictures.
      flags: of `run_folder.read_all_flags`.
      comparisons: of `run_folder.read_comparisons`.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["sentence"] = verdict_sentence
    environment.filters["shown"] = lambda text: printable(clipped(str(text), _SHOWN_LENGTH))
    template = environment.from_string(Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        output=output,
        settings=launch["settings"],
        model=launch["model"],
        versions=launch["versions"],
        summary=summary,
        metrics=metrics,
        tables=metrics_rows(metrics),
        data=data,
        damaged=damaged_scores(data["damaged_scores"]),
        figures={
            name: "data:image/svg+xml;base64," + base64.b64encode(content).decode() for name, content in figures.items()
        },
        galleries=galleries,
        problem=problem,
        flags=flags,
        comparisons=comparisons,
    )
