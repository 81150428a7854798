r"""Regret of `tune`'s recommendation: how far it is from the best detector on images that it never saw.

    PYTHONPATH=. python benchmarks/regret.py --output regret \
      --networks densenet=densenet.keras,cnn=cnn.keras --fit 'train-*.tfrecord' --validation 'validation-*.tfrecord' \
      --test 'test-*.tfrecord' --out_distribution 'cifar100=cifar100-*.tfrecord' \
      --out_distribution 'mnist=mnist-*.tfrecord'

For each network it runs `fit`, `tune` on validation images alone, and `score` on the test images against each
out-of-distribution set, and prints, for each set, the AUROC of the best detector and of

* the recommended one,
* `gen`, `odin` (at the cell that `tune` chose) and `msp`, always,
* the one with the highest AUROC on shuffled patches alone.

Everything is resumed from `--output`.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

RULES = ("recommended", "gen", "odin", "msp", "patches alone")


def run(job: str, *flags: str) -> None:
    """Runs a job of odin-beam; its exit code must be 0."""
    subprocess.run([sys.executable, "-m", "odin_beam", job, *flags], check=True, stdout=subprocess.DEVNULL)


def choices(calibration: Mapping) -> dict[str, str]:
    """Rule -> the detector that it takes."""
    recommendation = calibration["recommendation"]
    patches = next(f["aurocs"] for f in recommendation["families"] if f["name"] == "surrogate_patches")
    best = max(patches, key=patches.get)
    names = {"recommended": recommendation["detector"], "patches alone": "odin" if best.startswith("odin_") else best}
    return {rule: names.get(rule, rule) for rule in RULES}


Results = tuple[dict[str, str], dict[str, dict[str, float]]]


def measure(network: str, model: str, options: argparse.Namespace) -> Results:
    """Runs a network's jobs.

    Returns:
      (rule -> detector, out-of-distribution set -> detector -> AUROC in percent).
    """
    folder = Path(options.output, network)
    folder.mkdir(parents=True, exist_ok=True)
    reference, calibration, scores = (folder / name for name in ("reference.npz", "calibration.json", "scores"))
    known = [f"--model={model}", f"--reference={reference}"]
    if not reference.exists():
        run("fit", f"--model={model}", f"--in_distribution={options.fit}", f"--output={reference}")
    grid = [f"--temperatures={options.temperatures}", f"--epsilons={options.epsilons}"]
    run("tune", *known, f"--in_distribution={options.validation}", f"--output={calibration}", *grid)
    outside = [f"--out_distribution={source}" for source in options.out_distribution]
    run(
        *("score", *known, f"--calibration={calibration}", f"--in_distribution=known={options.test}"),
        *(*outside, f"--output={scores}"),
    )
    aurocs: dict[str, dict[str, float]] = {}
    for pair in json.loads((scores / "metrics.json").read_text())["pairs"]:
        aurocs.setdefault(pair["out_distribution"], {})[pair["detector"]] = 100 * pair["auroc"]
    return choices(json.loads(calibration.read_text())), aurocs


def table(results: Mapping[str, Results]) -> Iterable[str]:
    """A line per network and set, and the mean and largest regrets."""
    yield "| network | against | best | " + " | ".join(RULES) + " |"
    yield "|---" * (3 + len(RULES)) + "|"
    regrets: dict[str, list[float]] = {rule: [] for rule in RULES}
    losses: dict[str, list[float]] = {rule: [] for rule in RULES}
    for network, (chosen, sets) in results.items():
        for name, aurocs in sets.items():
            best = max(aurocs, key=aurocs.get)
            cells = []
            for rule in RULES:
                regrets[rule].append(aurocs[best] - aurocs[chosen[rule]])
                losses[rule].append(aurocs["msp"] - aurocs[chosen[rule]])
                detector = f" ({chosen[rule]})" if rule in ("recommended", "patches alone") else ""
                cells.append(f"{aurocs[chosen[rule]]:.2f}{detector}")
            yield f"| {network} | {name} | {aurocs[best]:.2f} ({best}) | " + " | ".join(cells) + " |"
    for title, figures, summary in (
        ("mean regret", regrets, statistics.fmean),
        ("largest regret", regrets, max),
        ("largest loss to msp", losses, max),
    ):
        yield f"| {title} | | | " + " | ".join(f"{summary(figures[rule]):.2f}" for rule in RULES) + " |"


def named(values: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE,... as a dictionary."""
    return dict(item.split("=", 1) for value in values for item in value.split(","))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", action="append", required=True, metavar="NAME=MODEL,...")
    for flag in ("fit", "validation", "test", "output"):
        parser.add_argument(f"--{flag}", required=True)
    parser.add_argument("--out_distribution", action="append", required=True, metavar="NAME=PATTERN")
    parser.add_argument("--temperatures", default="1,1000")
    parser.add_argument("--epsilons", default="0,0.0014")
    options = parser.parse_args()
    results = {name: measure(name, model, options) for name, model in named(options.networks).items()}
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
