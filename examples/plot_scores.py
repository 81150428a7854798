r"""Draws in- against out-of-distribution scores of a `score` run, baseline beside ODIN.

    python examples/plot_scores.py --scores scores --in_distribution cifar10 --out_distribution tiny_imagenet \\
        --output scores.png

Reads the score rows and metrics.json; the rows of two sources must fit in memory.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
import pyarrow.dataset

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Okabe and Ito's colours, told apart by colour-blind readers too.
IN_COLOUR, OUT_COLOUR = "#0072B2", "#D55E00"
# What is drawn of each detector: ODIN's score itself would be one bar at T = 1000.
PANELS = {"msp": ("msp", "maximum softmax probability (baseline)"), "odin": ("odin_logit", "ODIN, T (log S + log K)")}


def read_scores(folder: Path, source: str, column: str) -> np.ndarray:
    """float64 [N], the column of a source."""
    rows = pyarrow.dataset.dataset(folder / "scores", partitioning="hive")
    return rows.to_table([column], filter=pyarrow.dataset.field("source") == source)[column].to_numpy()


def draw_panel(axes: plt.Axes, inside: np.ndarray, outside: np.ndarray, names: tuple[str, str], fpr: float) -> None:
    """Two histograms, and the threshold that accepts 95 % of the in-distribution images."""
    edges = np.histogram_bin_edges(np.concatenate([inside, outside]), 50)
    for scores, colour, name in ((inside, IN_COLOUR, names[0]), (outside, OUT_COLOUR, names[1])):
        weights = np.full(len(scores), 100 / len(scores))
        axes.hist(scores, edges, weights=weights, color=colour, alpha=0.6, label=name)
    threshold = np.sort(inside)[len(inside) - (95 * len(inside) + 99) // 100]
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label="accepts 95 % of in-distribution")
    axes.set_title(f"FPR@95TPR {100 * fpr:.2f} %", fontsize=11)
    axes.set_ylabel("share of images, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    for flag in ("--scores", "--in_distribution", "--out_distribution", "--output"):
        parser.add_argument(flag, required=True)
    given = parser.parse_args()
    folder, names = Path(given.scores), (given.in_distribution, given.out_distribution)
    pairs = json.loads((folder / "metrics.json").read_text())["pairs"]
    fpr = {p["detector"]: p["fpr_at_95_tpr"] for p in pairs if (p["in_distribution"], p["out_distribution"]) == names}

    figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for axes, (detector, (column, title)) in zip(panels, PANELS.items(), strict=True):
        inside, outside = (read_scores(folder, name, column) for name in names)
        draw_panel(axes, inside, outside, names, fpr[detector])
        axes.set_xlabel(title)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(given.output, dpi=120)
    print(given.output)


if __name__ == "__main__":
    main()
