"""The pictures of `tune`: the objective over the grid, and against epsilon."""

import io
import textwrap
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from odin_beam.transforms.calibration.objectives import OBJECTIVES

_DPI = 130
# Inches: of the lower figure, and of a character in a title.
_HEIGHT = 4.2
_CHARACTER = 0.09


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def title(content: dict[str, Any]) -> str:
    """The sources that were compared, surrogates marked as such."""
    objective = content["objective"]
    return OBJECTIVES[objective["name"]].title + (
        f", against {', '.join(objective['against'])}" if OBJECTIVES[objective["name"]].two_sided else ""
    )


def scaled(content: dict[str, Any]) -> dict[str, float]:
    """Cell -> its objective as it is shown: shares in percent."""
    name = content["objective"]["name"]
    return {cell["cell"]: OBJECTIVES[name].factor * cell[name] for cell in content["grid"]}


def grid_figure(content: dict[str, Any]) -> Figure:
    """Heat map of the objective, the better the brighter, the chosen cell framed.

    Args:
      content: of `calibration.json`.
    """
    temperatures, epsilons = _axes(content)
    values = np.array(list(scaled(content).values())).reshape(len(temperatures), len(epsilons))
    width, height = 2.2 + 0.75 * len(epsilons), 1.6 + 0.45 * len(temperatures)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    better_is_higher = OBJECTIVES[content["objective"]["name"]].higher_is_better
    image = axes.imshow(values, cmap="viridis" if better_is_higher else "viridis_r", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        # Dark text on the bright end of the scale.
        bright = image.norm(value) > 0.6 if better_is_higher else image.norm(value) < 0.4
        text = f"{value:.2f}" if OBJECTIVES[content["objective"]["name"]].two_sided else f"{value:.6g}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color="black" if bright else "white")
    chosen = [cell["cell"] for cell in content["grid"]].index(content["choice"]["cell"])
    row, column = divmod(chosen, len(epsilons))
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="#D55E00", linewidth=3))
    axes.set_xticks(range(len(epsilons)), [f"{epsilon:g}" for epsilon in epsilons])
    axes.set_yticks(range(len(temperatures)), [f"{temperature:g}" for temperature in temperatures])
    axes.set_xlabel("epsilon")
    axes.set_ylabel("temperature")
    axes.set_title(textwrap.fill(f"{title(content)}; framed: chosen", int(width / _CHARACTER)), fontsize=10)
    return figure


def epsilon_figure(content: dict[str, Any]) -> Figure:
    """The objective against epsilon, one line per temperature, the chosen cell marked; msp for comparison.

    Args:
      content: of `calibration.json`.
    """
    temperatures, epsilons = _axes(content)
    values = scaled(content)
    figure = Figure(figsize=(7.5, _HEIGHT), layout="constrained")
    axes = figure.subplots()
    colours = matplotlib.colormaps["plasma"](np.linspace(0, 0.85, len(temperatures)))
    for temperature, colour in zip(temperatures, colours, strict=True):
        own = [values[cell["cell"]] for cell in content["grid"] if cell["temperature"] == temperature]
        axes.plot(epsilons, own, "o-", color=colour, markersize=4, label=f"T = {temperature:g}")
    name = content["objective"]["name"]
    if OBJECTIVES[name].two_sided:
        axes.axhline(100 * content["detectors"]["msp"][name], color="black", linestyle=":", linewidth=1.2, label="msp")
    chosen = content["settings"]["odin"]
    axes.plot(
        chosen["epsilon"],
        values[content["choice"]["cell"]],
        "o",
        markersize=13,
        markerfacecolor="none",
        markeredgecolor="#D55E00",
        markeredgewidth=2.5,
        label="chosen",
        clip_on=False,
        zorder=5,
    )
    if positive := [epsilon for epsilon in epsilons if epsilon > 0]:
        # Logarithmic, with 0 at the left end.
        axes.set_xscale("symlog", linthresh=positive[0], linscale=0.5)
        axes.set_xlim(left=0 if 0 in epsilons else positive[0] * 0.9)
        axes.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons], rotation=45 if len(epsilons) > 8 else 0)
        axes.minorticks_off()
    axes.set_xlabel("epsilon")
    axes.set_ylabel(textwrap.fill(title(content), int(_HEIGHT / _CHARACTER)))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return figure


def _axes(content: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Temperatures and epsilons of the grid, ascending; its cells stand in that order."""
    return [list(dict.fromkeys(cell[name] for cell in content["grid"])) for name in ("temperature", "epsilon")]
