"""The report's figures: ROC curves, score histograms, shares below the threshold, the colour bar of activation maps."""

import io
import itertools
from typing import Any

import matplotlib
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from odin_beam.transforms.detectors.registry import HISTOGRAMS

# Okabe and Ito's colours, which colour-blind readers can distinguish, too.
STRESSED = {"odin": "#D55E00", "msp": "#0072B2"}
_OTHERS = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C", "#B8A000", "#7A5195", "#5B5B5B")
_SOURCES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_CLASSES_SHOWN = 20
MAP_COLOURS = "inferno"


def svg(figure: Figure) -> bytes:
    """The figure as SVG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "odin-beam"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def roc_figure(pair: dict[str, Any], metrics: dict[str, dict[str, Any]]) -> Figure:
    """Curves of one pair of sources, on a linear and on a logarithmic FPR; ODIN and msp stressed.

    Args:
      pair: an entry of `curves` in `report_data`.
      metrics: the pair's metrics by detector.
    """
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    panels = figure.subplots(1, 2)
    order = sorted(pair["detectors"], key=lambda name: name in STRESSED)
    others = (name for name in order if name not in STRESSED)
    colours = dict(zip(others, itertools.cycle(_OTHERS), strict=False)) | STRESSED
    for axes, scale in zip(panels, ("linear", "log"), strict=True):
        for name in order:
            curve, stressed = pair["detectors"][name], name in STRESSED
            style = {"linewidth": 2.2 if stressed else 1.0, "alpha": 1.0 if stressed else 0.75}
            label = f"{name}, AUROC {100 * metrics[name]['auroc']:.2f} %"
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
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def histogram_figure(column: str, bars: dict[str, Any]) -> Figure:
    """Share of each source's images by score, the threshold at 95 % true positive rate marked."""
    figure = Figure(figsize=(7.5, 3.6), layout="constrained")
    axes = figure.subplots()
    edges = bars["edges"]
    for (source, counts), colour in zip(bars["counts"].items(), _SOURCES * 10, strict=False):
        shares = [100 * count / max(1, sum(counts)) for count in counts]
        axes.stairs(shares, edges, fill=True, alpha=0.25, color=colour)
        axes.stairs(shares, edges, color=colour, linewidth=1.4, label=source)
    if bars["threshold"] is not None:
        label = "accepts 95 % of in-distribution"
        axes.axvline(bars["threshold"], color="black", linestyle="--", linewidth=1, label=label)
    axes.set_xlabel(HISTOGRAMS[column])
    axes.set_ylabel("share of images, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def classes_figure(classes: list[dict[str, Any]], source: str) -> Figure:
    """Share of a source's images below the threshold, by predicted class; of many classes those with most images."""
    rows = sorted((row for row in classes if row["source"] == source), key=lambda row: -row["count"])
    rows = sorted(rows[:_CLASSES_SHOWN], key=lambda row: row["class"])
    figure = Figure(figsize=(7.5, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.bar(
        [str(row["class"]) for row in rows], [100 * row["flagged"] / row["count"] for row in rows], color=_SOURCES[0]
    )
    axes.set_xlabel("predicted class")
    axes.set_ylabel("below threshold, %")
    axes.set_ylim(0, 100)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    return figure


def map_scale_figure() -> Figure:
    """The colour bar of the activation maps: each map from 0 to its own maximum."""
    figure = Figure(figsize=(3.6, 0.7), layout="constrained")
    axes = figure.subplots()
    scale = ScalarMappable(matplotlib.colors.Normalize(0, 1), MAP_COLOURS)
    bar = figure.colorbar(scale, cax=axes, orientation="horizontal", ticks=[0, 1])
    bar.ax.set_xticklabels(["0 or less", "map's maximum"], fontsize=9)
    return figure
