"""The last line of a job: the command that goes on from what it has just done."""

import argparse
import shlex
from collections.abc import Collection

from odin_beam.pipeline.flags.fit import FitOptions

# Flags that a later job needs too, to feed the model in the same way.
_FEEDING = (
    *("model_config", "output_name", "model_factory", "preprocessing", "mean", "std", "channel_order", "image_size"),
    *("resize", "crop", "interpolation", "antialias", "jpeg", "precision"),
)
# Of them, those that neither model.json nor calibration.json remembers.
_NOT_REMEMBERED = ("model_factory",)


def after_check(given: argparse.Namespace) -> str:
    """`tune`, on the same images.

    Args:
      given: the flags of `check`.
    """
    if not given.output:
        return "next: give --output model.json to keep this for the jobs that follow"
    images = [word for pattern in given.in_distribution for word in ("--in_distribution", pattern)]
    words = ["tune", "--model", given.model, *_feeding(given, _NOT_REMEMBERED), "--model_config", given.output, *images]
    return f"next: {_command(*words, '--output', 'calibration.json')}"


def after_fit(options: FitOptions) -> str:
    """`tune` with the reference, on other images."""
    given = options.arguments
    words = ["tune", "--model", given.model, *_feeding(given, _FEEDING), "--reference", given.output]
    return (
        f"next: {_command(*words)} --in_distribution VALIDATION --output calibration.json, on images other than these"
    )


def after_tune(given: argparse.Namespace) -> str:
    """`score` with the calibration.

    Args:
      given: the flags of `tune`.
    """
    words = ["score", "--model", given.model, *_feeding(given, _NOT_REMEMBERED), "--calibration", given.output]
    return f"next: {_command(*words)} --input PATTERN --output scores"


def after_score(output: str, roles: Collection[str], calibrated: bool, calibration: str | None) -> str:
    """`flag`, or what there is without a calibration.

    Args:
      output: the run's folder.
      roles: of its sources.
      calibrated: whether temperature and epsilon come from a calibration.
      calibration: its path, if it was given now.
    """
    if calibrated:
        return f"next: {_command('flag', '--scores', output, '--calibration', calibration or 'calibration.json')}"
    if "in_distribution" in roles:
        return f"next: {_command('report', '--scores', output)}"
    return f"next: {_command('top', '--scores', output, '--sheet', 'first.png')}"


def after_flag(output: str, name: str | None) -> str:
    """`top`: the images themselves."""
    named = ["--name", name] if name else []
    return f"next: {_command('top', '--scores', output, *named, '--csv', 'first.csv', '--sheet', 'first.png')}"


def after_evaluate(output: str) -> str:
    """`report`: the same as a page."""
    return f"next: {_command('report', '--scores', output)}"


def after_ingest(shards: str, labelled: bool) -> str:
    """`check` on labelled images, else `score`.

    Args:
      shards: pattern for them.
      labelled: whether some have labels.
    """
    if labelled:
        return f"next: odin-beam check --model MODEL --in_distribution {shlex.quote(shards)} --output model.json"
    return f"next: odin-beam score --model MODEL --output scores --input {shlex.quote(shards)}"


AFTER_DEMO = (
    "next, with a model and images of your own: "
    "odin-beam check --model MODEL --in_distribution PATTERN --output model.json"
)


def _feeding(given: argparse.Namespace, names: Collection[str]) -> list[str]:
    words = []
    for name in names:
        value = getattr(given, name, None)
        if value is not None:
            words += [f"--{name}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return words


def _command(*words: str) -> str:
    return shlex.join(["odin-beam", *words])
