"""The last line of a job: the command that goes on from what it has just done."""

import argparse
import shlex
from collections.abc import Collection

from odin_beam.pipeline.flags.fit import FitOptions
from odin_beam.pipeline.flags.review import ReviewOptions
from odin_beam.pipeline.flags.top import TopOptions
from odin_beam.transforms.ranking.review import FOREIGN

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


def after_top(options: TopOptions, has_flags: bool) -> str:
    """`review` of a sample, or what leads there."""
    run = ["--scores", options.scores, *_given("--name", options.name), *_given("--source", options.source)]
    if options.random:
        if options.csv:
            return f"next, with yes or no in its column {FOREIGN}: {_command('review', *run, '--labels', options.csv)}"
        draw = _command("top", *run, "--random", str(options.count), "--csv", "sample.csv", "--copy", "sample")
        return f"next, to label them: {draw}"
    if not has_flags:
        flag = _command("flag", "--scores", options.scores, "--calibration", "calibration.json")
        return f"next, to know how many are unusual, with a calibration of `tune`: {flag}"
    if options.sheet or options.copy:
        draw = _command("top", *run, "--random", "100", "--csv", "sample.csv", "--copy", "sample")
        return f"next, to learn how right the flags are: {draw}"
    same = [*_given("--class", options.predicted), *_given("--detector", options.detector)]
    same += [*(["--high"] if options.high else []), "--count", str(options.count)]
    return f"next, to look at them: {_command('top', *run, *same, '--sheet', 'first.png')}"


def after_review(options: ReviewOptions, more: int | None) -> str:
    """More labels, flags by a new calibration, or `report`.

    Args:
      options: of `review`.
      more: how many images to draw for a sample that tells more; None if this one tells enough.
    """
    run = ["--scores", options.scores, *_given("--name", options.name)]
    if options.recalibrate:
        return f"next: {_command('flag', *run, '--calibration', options.recalibrate)}"
    if more:
        draw = ["--random", str(more), "--csv", "more.csv", "--copy", "more"]
        words = _command("top", *run, *_given("--source", options.source), *draw)
        return f"next, to label what is new in it and give both tables to `review`: {words}"
    return f"next: {_command('report', '--scores', options.scores)}"


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


def _given(flag: str, value: str | None) -> list[str]:
    return [] if value is None else [flag, value]


def _command(*words: str) -> str:
    return shlex.join(["odin-beam", *words])
