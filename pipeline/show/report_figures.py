"""The report's figures: ROC curves, score histograms, shares below the threshold, the colour bar of activation maps."""

import io
import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from odin_beam.pipeline.show.report_selection import class_title
from odin_beam.transforms.detectors.registry import HISTOGRAMS
from odin_beam.transforms.text import clipped, printable

# Okabe and Ito's colours, which colour-blind readers can distinguish, too.
STRESSED = {"odin": "#D55E00", "msp": "#0072B2"}
_OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#B8A000", "#7A5195", "#5B5B5B")
_SOURCES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_CLASSES_SHOWN = 20
# Inches of 72 points, of which a phone's 328 pixels hold 4.6 when letters of 11 points appear 11 pixels high.
_WIDTH, _LINE, _LEGEND_COLUMNS = 4.6, 0.24, 2
# Characters of a name in a figure.
_LABEL = 18
MAP_COLOURS = "inferno"


def svg(figure: Figure) -> bytes:
    """The figure as SVG on no ground of its own, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "odin-beam"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    return buffer.getvalue()


def roc_figure(pair: dict[str, Any], metrics: dict[str, dict[str, Any]], scale: str) -> Figure:
    """Curves of one pair of sources; ODIN and msp stressed.

    Args:
      pair: an entry of `curves` in `report_data`.
      metrics: the pair's metrics by detector.
      scale: of the false positive rate, `linear` or `log`.
    """
    order = sorted(pair["detectors"], key=lambda name: name in STRESSED)
    lines = -(-len(order) // _LEGEND_COLUMNS)
    figure, axes = _figure(3.6 + _LINE * lines)
    others = (name for name in order if name not in STRESSED)
    colours = dict(zip(others, itertools.cycle(_OTHERS), strict=False)) | STRESSED
    for name in order:
        curve, stressed = pair["detectors"][name], name in STRESSED
        style = {"linewidth": 2.2 if stressed else 1.0, "alpha": 1.0 if stressed else 0.75}
        label = f"{name} {100 * metrics[name]['auroc']:.1f} %"
        axes.plot(curve["fpr"], curve["tpr"], color=colours[name], label=label, **style)
        if stressed:
            axes.plot(metrics[name]["fpr_at_95_tpr"], 0.95, "o", color=colours[name], markersize=6)
    axes.axhline(0.95, color="black", linestyle=":", linewidth=1)
    axes.set_xscale(scale)
    lowest = 1 / max(entry["out_count"] for entry in metrics.values())
    axes.set_xlim(lowest if scale == "log" else 0, 1)
    axes.set_ylim(0, 1.01)
    axes.set_xlabel("false positive rate" + (", logarithmic" if scale == "log" else ""))
    axes.set_ylabel("true positive rate")
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    _legend(figure, handles[::-1], labels[::-1])
    return figure


def histogram_figure(column: str, bars: dict[str, Any]) -> Figure:
    """Share of each source's images by score, the threshold at 95 % true positive rate marked."""
    figure, axes = _figure(2.7 + _LINE * -(-(len(bars["counts"]) + 1) // _LEGEND_COLUMNS))
    edges = bars["edges"]
    for (source, counts), colour in zip(bars["counts"].items(), _SOURCES * 10, strict=False):
        shares = [100 * count / max(1, sum(counts)) for count in counts]
        axes.stairs(shares, edges, fill=True, alpha=0.25, color=colour)
        axes.stairs(shares, edges, color=colour, linewidth=1.4, label=clipped(printable(source), _LABEL))
    if bars["threshold"] is not None:
        axes.axvline(bars["threshold"], color="black", linestyle="--", linewidth=1, label="95 % of known above")
    axes.set_xlabel(HISTOGRAMS[column])
    axes.set_ylabel("share of images, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    _legend(figure, *axes.get_legend_handles_labels())
    return figure


def classes_figure(
    classes: list[dict[str, Any]], source: str, class_names: Sequence[str] | None, measure: str
) -> Figure:
    """Share of a source's images that are flagged, by predicted class; of many classes those with most images.

    Args:
      classes: `classes` of `report_data`.
      source: name of the source.
      class_names: of the classifier; None where its classes have none.
      measure: what the share is of, as the title of its axis.
    """
    rows = sorted((row for row in classes if row["source"] == source), key=lambda row: -row["count"])
    rows = sorted(rows[:_CLASSES_SHOWN], key=lambda row: row["class"])
    figure, axes = _figure(0.8 + 0.28 * len(rows))
    names = [clipped(printable(class_title(row["class"], class_names)), _LABEL) for row in rows]
    shares = [100 * row["flagged"] / row["count"] for row in rows]
    # By place, since two classes may have one name once it is cut.
    axes.barh(range(len(rows)), shares, color=_SOURCES[0])
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xlabel(measure)
    axes.set_xlim(0, 100)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    return figure


def _figure(height: float) -> tuple[Figure, Axes]:
    """As wide as a phone shows it, so that its letters need not shrink there."""
    with matplotlib.rc_context({"font.size": 11}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        return figure, figure.subplots()


def _legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str]) -> None:
    columns = min(_LEGEND_COLUMNS, len(labels))
    # A `$` or `_` in a name is no mathematics and no wish to be left out.
    shown = figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=10.5, columnspacing=1.2
    )
    for text in shown.get_texts():
        text.set_parse_math(False)


def map_scale_figure() -> Figure:
    """The colours of the activation maps, from 0 to a map's maximum: the page says so beside them."""
    figure = Figure(figsize=(1.6, 0.2), layout="constrained")
    axes = figure.subplots()
    bar = figure.colorbar(ScalarMappable(None, MAP_COLOURS), cax=axes, orientation="horizontal", ticks=[])
    bar.outline.set_visible(False)
    return figure
