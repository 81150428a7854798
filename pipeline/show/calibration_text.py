"""`calibration.json` as text for people."""

from typing import Any

from odin_beam.pipeline.show.columns import names_width
from odin_beam.pipeline.show.tune_figures import scaled, title
from odin_beam.transforms.calibration.objectives import OBJECTIVES

_TPRS = (0.9, 0.95, 0.99)


def calibration_text(content: dict[str, Any]) -> str:
    """The grid, the choice and why, the recommended detector and why, thresholds, warnings.

    Args:
      content: of `calibration.json`.
    """
    blocks = ["\n".join(lines(content)) for lines in (_grid, _choice, _recommendation, _thresholds)]
    blocks += [f"warning: {text}" for text in content["warnings"]]
    return "\n\n".join(blocks)


def _grid(content: dict[str, Any]) -> list[str]:
    objective, values = content["objective"], scaled(content)
    best = "higher" if OBJECTIVES[objective["name"]].higher_is_better else "lower"
    lines = [f"{title(content)} ({best} is better):", ""]
    epsilons = list(dict.fromkeys(cell["epsilon"] for cell in content["grid"]))
    lines.append("  T \\ epsilon" + "".join(f"{epsilon:>9g}" for epsilon in epsilons))
    digits = ".2f" if OBJECTIVES[objective["name"]].two_sided else ".6f"
    for temperature in dict.fromkeys(cell["temperature"] for cell in content["grid"]):
        own = [values[cell["cell"]] for cell in content["grid"] if cell["temperature"] == temperature]
        lines.append(f"  {temperature:>11g}" + "".join(f"{value:>9{digits}}" for value in own))
    if OBJECTIVES[objective["name"]].two_sided:
        figures = {name: 100 * own[objective["name"]] for name, own in content["detectors"].items()}
        lines += ["", "  without tuning: " + ", ".join(f"{name} {value:.2f}" for name, value in figures.items())]
    if objective["surrogates"]:
        lines += [
            "",
            f"{', '.join(objective['against'])} are surrogates, made from the in-distribution images: these figures "
            "are indicative only",
        ]
    return lines


def _choice(content: dict[str, Any]) -> list[str]:
    choice, odin = content["choice"], content["settings"]["odin"]
    gain, over_msp, cost = choice["gain_of_perturbation"], choice["gain_over_msp"], content["cost"]["odin_over_forward"]
    times = f"{cost:.1f} times" if cost else "about 3 times"
    lines = [f"chosen for ODIN: temperature {odin['temperature']:g}, epsilon {odin['epsilon']:g}"]
    if gain:
        best = _cell(content, choice["best_with_perturbation"])
        still = _cell(content, choice["best_without_perturbation"])
        said = (
            f"epsilon {best['epsilon']:g} at T {best['temperature']:g} against epsilon 0 at T "
            f"{still['temperature']:g}: {_gain(gain, content)}, for {times} the time"
        )
        doubt = "not a certain gain" if gain["value"] > 0 else "no gain"
        verdict = "" if gain["low"] > 0 else f"; {doubt}, so epsilon 0 is chosen"
        lines.append(f"  {said}{verdict}")
    elif choice["best_with_perturbation"] is None:
        lines.append("  the grid has no epsilon above 0")
    else:
        lines.append(
            "  the grid has no epsilon 0 to compare with: whether the perturbation is worth its time is unknown"
        )
    if over_msp:
        verdict = "" if over_msp["low"] > 0 else "; ODIN does not beat the plain msp here"
        lines.append(f"  against msp: {_gain(over_msp, content)}{verdict}")
    return lines + [f"  {hint}" for hint in choice["at_edge"]]


def _cell(content: dict[str, Any], name: str) -> dict[str, Any]:
    return next(cell for cell in content["grid"] if cell["cell"] == name)


def _gain(gain: dict[str, Any], content: dict[str, Any]) -> str:
    name = content["objective"]["name"]
    factor, digits = (100, "+.2f") if OBJECTIVES[name].two_sided else (1, "+.3g")
    value, low, high = (format(factor * gain[key], digits) for key in ("value", "low", "high"))
    return f"{value} {OBJECTIVES[name].unit} (95 % interval {low} to {high}; above 0 is better)"


def _recommendation(content: dict[str, Any]) -> list[str]:
    found = content["recommendation"]
    lines = [f"recommended detector: {found['detector']} ({found['reason']})"]
    if not found["comparisons"]:
        return lines
    width = names_width(["detector", *(row["detector"] for row in found["comparisons"])])
    telling = [family["name"] for family in found["families"] if family["problem"] is None]
    lines += [
        "",
        f"  against {found['default']}, in points of AUROC, mean over {', '.join(telling)}:",
        "",
        f"  {'detector':{width}}{'gain':>8}{'at least':>10}{'worst':>8}   {'gain on the other half':28}passes",
    ]
    for row in found["comparisons"]:
        gain, least, worst = (100 * row[name] for name in ("gain", "low", "worst_gain"))
        value, low, high = (100 * figure for figure in row["held_out_gain"])
        held_out = f"{value:+.2f} ({low:+.2f} to {high:+.2f})"
        forward, gradient = row["passes_per_image"].values()
        lines.append(
            f"  {row['detector']:{width}}{gain:>+8.2f}{least:>+10.2f}{worst:>+8.2f}   {held_out:28}{forward} forward"
            + (f", {gradient} gradient" if gradient else "")
        )
    lines += ["", *(f"  {family['name']}: {family['problem']}" for family in found["families"] if family["problem"])]
    lines.append(
        "  at least: a lower bound that holds for all detectors at once (95 %); worst: on any one kind of images"
    )
    if content["objective"]["surrogates"]:
        lines.append(
            "  ranked on altered copies of your images; the interval covers sampling, not how foreign images differ"
        )
    return lines


def _thresholds(content: dict[str, Any]) -> list[str]:
    count, width = content["scores"]["odin"]["count"], names_width(content["thresholds"])
    lines = [f"thresholds, from {count:,} in-distribution images (a lower score is flagged):", ""]
    lines.append("  " + " " * width + "".join(f"{f'TPR {tpr:g}':>14}" for tpr in _TPRS))
    for detector, table in content["thresholds"].items():
        rows = {row["tpr"]: row for row in table}
        lines.append(f"  {detector:{width}}" + "".join(f"{rows[tpr]['threshold']:>14.6g}" for tpr in _TPRS))
    intervals = [{row["tpr"]: row["realised_tpr"] for row in content["thresholds"]["odin"]}[tpr] for tpr in _TPRS]
    lines.append("  on new images" + ", ".join(f" {low:.3f} to {high:.3f}" for low, high in intervals))
    return lines
