"""`odin-beam report`: what a `score` run found, as one HTML page with its figures beside it.

    odin-beam report --scores scores

writes `scores/report/report.html`, self-contained, the figures as SVG and what they are drawn from as `data.json`.
The images of the galleries are read back from where they were scored, and the model is loaded once more for the
activation maps; where either is gone, the report says so and goes on.
"""

import base64
import itertools
from pathlib import Path
from typing import Any

import apache_beam as beam
import jinja2

from odin_beam.pipeline.flags.options import ReportOptions, beam_options
from odin_beam.pipeline.launch.run_folder import launched_run, read_flags, read_json
from odin_beam.pipeline.runners.local_workers import run_pipeline
from odin_beam.pipeline.show import report_figures
from odin_beam.pipeline.show.report_gallery import Picture, make_pictures
from odin_beam.transforms.detectors.registry import DETECTORS
from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.metrics.report_data import ReportSettings, WriteReportData
from odin_beam.transforms.model.classifier import Classifier
from odin_beam.transforms.model.files import model_digest
from odin_beam.transforms.scoring.check_finished import CheckFinished
from odin_beam.transforms.scoring.scorer import load_settings_classifier
from odin_beam.transforms.scoring.settings import ScoreSettings, settings_of
from odin_beam.transforms.shards.manifest import ReadManifest
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import paths, writing

_FIGURES = ("fpr_at_95_tpr", "detection_error", "auroc", "aupr_in", "aupr_out")
_LOWER_IS_BETTER = ("fpr_at_95_tpr", "detection_error")


def run(options: ReportOptions) -> int:
    """Writes the report and says where it is; gives the exit code.

    Raises:
      UsageError: no output folder of `score`.
    """
    output = options.scores
    launch, shards = launched_run(output)
    metrics = read_json(output, "metrics.json") or {"in_distribution": {}, "pairs": []}
    settings = _report_settings(output, launch, shards, metrics)
    pipeline = beam.Pipeline(options=beam_options(options.beam))
    checked = pipeline | ReadManifest(output) | CheckFinished(output, launch["settings"])
    checked.finished | WriteReportData(settings)
    run_pipeline(pipeline).wait_until_finish()
    data = read_json(paths.join(output, "report"), "data.json")

    figures = _figures(data, metrics)
    for name, content in figures.items():
        writing.write_bytes(paths.join(output, "report", f"{name}.svg"), content)
    classifier, problem = _classifier(launch, options.model_factory)
    galleries = _galleries(output, data, shards, classifier, launch)
    page = _page(output, launch, metrics, data, figures, galleries, problem, read_flags(output, launch, shards))
    path = paths.join(output, "report", "report.html")
    writing.write_bytes(path, page.encode())
    print(path)
    return 0


def _report_settings(
    output: str, launch: dict[str, Any], shards: list[Shard], metrics: dict[str, Any]
) -> ReportSettings:
    chosen = launch["settings"]["detectors"]
    ranked_by = next(name for name in DETECTORS if name in chosen)
    thresholds = [source["threshold_at_95_tpr"].get(ranked_by) for source in metrics["in_distribution"].values()]
    roles = {shard.source: shard.role for shard in shards}
    return ReportSettings(output, roles, ranked_by, next(iter(thresholds), None))


def _classifier(launch: dict[str, Any], factory: str | None) -> tuple[Classifier | None, str | None]:
    """The classifier that scored, or why it cannot be had."""
    settings = settings_of(launch)
    if settings.model_factory != factory:
        made = f"was made by --model_factory {settings.model_factory}" if settings.model_factory else "needs no factory"
        return None, f"the model {made}: say the same here to see images"
    try:
        if model_digest(settings.model, any_file=settings.model_factory is not None) != settings.model_digest:
            return None, f"{settings.model} is another model by now, so no image is shown"
        return load_settings_classifier(settings), None
    except ClassifierError as e:
        return None, f"{e}, so no image is shown"


def _figures(data: dict[str, Any], metrics: dict[str, Any]) -> dict[str, bytes]:
    figures = {}
    for pair in data["curves"]:
        names = (pair["in_distribution"], pair["out_distribution"])
        of_pair = {
            row["detector"]: row
            for row in metrics["pairs"]
            if (row["in_distribution"], row["out_distribution"]) == names
        }
        if pair["detectors"] and pair["detectors"].keys() <= of_pair.keys():
            figures[f"roc-{names[0]}+{names[1]}"] = report_figures.svg(report_figures.roc_figure(pair, of_pair))
    for column, bars in data["bars"].items():
        figures[f"histogram-{column}"] = report_figures.svg(report_figures.histogram_figure(column, bars))
    if data["threshold"] is not None:
        for source in dict.fromkeys(row["source"] for row in data["classes"]):
            figures[f"classes-{source}"] = report_figures.svg(report_figures.classes_figure(data["classes"], source))
    figures["map-scale"] = report_figures.svg(report_figures.map_scale_figure())
    return figures


def _galleries(
    output: str, data: dict[str, Any], shards: list[Shard], classifier: Classifier | None, launch: dict[str, Any]
) -> dict[str, dict[str, list[Picture]]]:
    settings: ScoreSettings = settings_of(launch)
    galleries = {}
    for source, ends in data["galleries"].items():
        own = [shard for shard in shards if shard.source == source]
        galleries[source] = {
            end: [Picture(row) for row in rows]
            if classifier is None
            else make_pictures(rows, own, output, classifier, settings)
            for end, rows in ends.items()
        }
    return galleries


def metrics_rows(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """The pairs for the table: by pair of sources, each figure in percent, its difference to msp, and if it is best."""
    tables = []
    for names, group in itertools.groupby(
        metrics["pairs"], key=lambda row: (row["in_distribution"], row["out_distribution"])
    ):
        rows = list(group)
        best = {
            figure: (min if figure in _LOWER_IS_BETTER else max)(row[figure] for row in rows) for figure in _FIGURES
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
                    for figure in _FIGURES
                ],
            }
            for row in rows
        ]
        tables.append({"names": names, "counts": (rows[0]["in_count"], rows[0]["out_count"]), "rows": cells})
    return tables


def _page(
    output: str,
    launch: dict[str, Any],
    metrics: dict[str, Any],
    data: dict[str, Any],
    figures: dict[str, bytes],
    galleries: dict[str, dict[str, list[Picture]]],
    problem: str | None,
    flags: tuple[dict[str, Any] | None, str | None],
) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(
        (Path(__file__).parents[1] / "show" / "report.html.jinja").read_text(encoding="utf-8")
    )
    return template.render(
        output=output,
        settings=launch["settings"],
        model=launch["model"],
        versions=launch["versions"],
        summary=read_json(output, "summary.json"),
        metrics=metrics,
        tables=metrics_rows(metrics),
        data=data,
        figures={
            name: "data:image/svg+xml;base64," + base64.b64encode(content).decode() for name, content in figures.items()
        },
        galleries=galleries,
        problem=problem,
        flags=flags[0],
        flags_problem=flags[1],
    )
