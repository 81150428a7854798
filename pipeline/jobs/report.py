"""`odin-beam report`: what a `score` run found, as one HTML page with its figures next to it.

    odin-beam report --scores scores

writes `scores/report/report.html`, self-contained, the figures as SVG and what they are drawn from as `data.json`.
It begins with the answer in a sentence and the images to look at first; metrics and curves follow. The images are read
back from where they were scored, and the model is loaded once more for the activation maps; if either is gone, the
report notes this and continues.
"""

from typing import TYPE_CHECKING, Any

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.report import ReportOptions
from odin_beam.pipeline.launch.ranked_by import ranked_by
from odin_beam.pipeline.launch.run_folder import (
    class_names,
    launched_run,
    read_all_flags,
    read_comparisons,
    read_facts,
)
from odin_beam.pipeline.launch.tensorflow_import import import_tensorflow
from odin_beam.pipeline.show.metrics_table import damaged_scores
from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.model.files import model_digest
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.settings_json import OtherVersion
from odin_beam.transforms.storage import paths, writing
from odin_beam.transforms.tables import layout

if TYPE_CHECKING:
    from odin_beam.transforms.model.classifier import Classifier


def run(options: ReportOptions) -> int:
    """Writes the report and prints its path; returns the exit code.

    Raises:
      UsageError: not an output folder of `score`.
    """
    output = options.scores
    launch, shards = launched_run(output)
    names = class_names(output, launch)
    try:
        settings = ScoreSettings.from_identity(
            launch["model"],
            launch["settings"],
            paths.join(output, layout.RUN),
            class_names=names,
        )
    except OtherVersion as e:
        raise UsageError(str(e)) from e
    metrics = read_facts(output, layout.METRICS) or {"in_distribution": {}, "pairs": []}
    summary, flags = read_facts(output, layout.SUMMARY), read_all_flags(output, launch, shards)
    comparisons = read_comparisons(output, launch, shards)

    # The flags that the page is about, and with them the one detector that images and classes are shown by.
    flags_name, shown_flags = next(((name, found) for name, found, _ in flags if found), (None, None))
    detector = ranked_by(settings.detectors, shown_flags["detector"] if shown_flags else None)

    import apache_beam as beam

    from odin_beam.pipeline.runners.beam_options import beam_options
    from odin_beam.pipeline.runners.submit import submit
    from odin_beam.transforms.metrics.report_data import ReportSettings, WriteReportData
    from odin_beam.transforms.scoring.check_finished import ReadFinished

    pipeline = beam.Pipeline(options=beam_options(options.beam))
    scored = pipeline | ReadFinished(output)
    thresholds = [source["threshold_at_95_tpr"].get(detector) for source in metrics["in_distribution"].values()]
    roles = {shard.source: shard.role for shard in shards}
    scored["finished"] | WriteReportData(
        ReportSettings(
            output,
            roles,
            detector,
            next(iter(thresholds), None),
            launch["settings"],
            # Flags by a detector that this run has no scores of order no images.
            shown_flags is not None and shown_flags["detector"] == detector,
            flags_name,
        )
    )
    submit(pipeline)
    data = read_facts(paths.join(output, layout.REPORT), layout.REPORT_DATA)

    import_tensorflow()
    from odin_beam.pipeline.show.page import Findings, report_page
    from odin_beam.pipeline.show.report_gallery import make_pictures
    from odin_beam.pipeline.show.report_selection import parts

    figures = _figures(data, metrics, names)
    for name, content in figures.items():
        writing.write_bytes(paths.join(output, layout.REPORT, f"{name}.svg"), content)
    classifier, problem = _classifier(settings, options.model_factory)
    images = parts(data, names)
    rows = [row for part in images for group in part.groups for row in group.rows]
    page = report_page(
        Findings(
            output=output,
            launch=launch,
            summary=summary,
            metrics=metrics,
            data=data,
            flags=flags,
            comparisons=comparisons,
            class_names=names,
        ),
        figures,
        images,
        make_pictures(rows, shards, output, classifier, settings),
        problem,
    )
    path = paths.join(output, layout.REPORT, layout.REPORT_PAGE)
    writing.write_bytes(path, page.encode())
    print(path)
    damaged = damaged_scores(data["damaged_scores"])
    print("\n".join(damaged), end="\n" if damaged else "")
    return 3 if damaged else 0


def _classifier(settings: ScoreSettings, factory: str | None) -> "tuple[Classifier | None, str | None]":
    """The classifier that scored, or why it is not available."""
    from odin_beam.transforms.scoring.scorer import load_settings_classifier

    if settings.model_factory != factory:
        if settings.model_factory is None:
            return None, "the model was loaded without --model_factory: leave it out here to see activation maps"
        made = f"the model was made by --model_factory {settings.model_factory}"
        return None, f"{made}: give the same flag here to see activation maps"
    try:
        if model_digest(settings.model, any_file=settings.model_factory is not None) != settings.model_digest:
            return None, f"{settings.model} has changed since the run, so no activation map is shown"
        return load_settings_classifier(settings), None
    except ClassifierError as e:
        return None, f"{e}, so no activation map is shown"


def _figures(data: dict[str, Any], metrics: dict[str, Any], class_names: "tuple[str, ...] | None") -> dict[str, bytes]:
    from odin_beam.pipeline.show import report_figures

    figures = {}
    for pair in data["curves"]:
        names = (pair["in_distribution"], pair["out_distribution"])
        of_pair = {
            row["detector"]: row
            for row in metrics["pairs"]
            if (row["in_distribution"], row["out_distribution"]) == names
        }
        if pair["detectors"] and pair["detectors"].keys() <= of_pair.keys():
            for kind, scale in (("roc", "linear"), ("roc-log", "log")):
                figure = report_figures.roc_figure(pair, of_pair, scale)
                figures[f"{kind}-{names[0]}+{names[1]}"] = report_figures.svg(figure)
    for column, bars in data["bars"].items():
        figures[f"histogram-{column}"] = report_figures.svg(report_figures.histogram_figure(column, bars))
    if data["flagged"] or data["threshold"] is not None:
        measure = "flagged, %" if data["flagged"] else "below threshold, %"
        for source in dict.fromkeys(row["source"] for row in data["classes"]):
            figure = report_figures.classes_figure(data["classes"], source, class_names, measure)
            figures[f"classes-{source}"] = report_figures.svg(figure)
    figures["map-scale"] = report_figures.svg(report_figures.map_scale_figure())
    return figures
