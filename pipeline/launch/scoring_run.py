"""What every job that scores does: check that the command makes sense, launch the run, show its progress."""

import contextlib
import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.shared import Shared

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.launch import quick_check, run_folder
from odin_beam.pipeline.launch.class_names import ClassNames
from odin_beam.pipeline.launch.first_look import (
    converted_colours,
    expected_images,
    missing_labels,
    sample_labels,
)
from odin_beam.pipeline.launch.listings import publish_listings
from odin_beam.pipeline.launch.progress import show_progress
from odin_beam.pipeline.runners.submit import submit
from odin_beam.pipeline.runners.workers import imbalance, runs_here, share_cores, workers
from odin_beam.pipeline.show.plural import plural
from odin_beam.transforms.checking.precision import compare_precisions
from odin_beam.transforms.detectors.registry import DETECTORS, FIRST_DETECTORS
from odin_beam.transforms.errors import ClassifierError, FeatureReferenceError, StorageError
from odin_beam.transforms.forward.mixed_precision import has_bfloat16
from odin_beam.transforms.scoring.sample_images import sample_images
from odin_beam.transforms.scoring.score_shards import ScoreShards
from odin_beam.transforms.scoring.scorer import Scorer
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.manifest import ReadManifest
from odin_beam.transforms.shards.manifest_file import manifest_digest, read_manifest, write_manifest
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import listing, paths, writing
from odin_beam.transforms.tables import layout, run_file


@dataclass(frozen=True, eq=False)
class ScoringRun:
    """A run that is ready to be launched.

    Attributes:
      settings: what to compute.
      output: absolute path of the run's folder.
      shards: all of them, finished or not.
      folder: local; where `sources.list_shards` left its lists of images.
      command: the command line, without the program.
      overwrite: whether to remove first what an earlier run left.
      expected: images that each scores file is expected to hold, by its path.
      shared: handle of `scorer`, for the workers of this process.
      scorer: the classifier; None where an earlier run has finished everything.
      warnings: what a few images show, now or, where all is finished, when it was scored.
      unavailable: detector -> why it has no scores, found out when `warnings` were.
    """

    settings: ScoreSettings
    output: str
    shards: Sequence[Shard]
    folder: str
    command: Sequence[str]
    overwrite: bool
    expected: dict[str, int]
    shared: Shared
    scorer: Scorer | None
    warnings: Sequence[str] = ()
    unavailable: Mapping[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def model_errors() -> Iterator[None]:
    """Before the run starts, a model or a reference that cannot be used is a usage error."""
    try:
        yield
    except (ClassifierError, FeatureReferenceError) as e:
        raise UsageError(str(e)) from e


@contextlib.contextmanager
def _usage_errors() -> Iterator[None]:
    """An output of other settings is a usage error, however late another run has claimed it."""
    try:
        yield
    except run_file.OtherSettings as e:
        raise UsageError(str(e)) from e


def resolve_precision(settings: ScoreSettings, options: PipelineOptions) -> ScoreSettings:
    """float32 in place of `mixed`, with a warning, if this machine scores and has no bfloat16."""
    if settings.precision == "float32" or not runs_here(options) or has_bfloat16():
        return settings
    print("warning: this machine has no bfloat16 support: using float32 instead of mixed", file=sys.stderr)
    return replace(settings, precision="float32")


def prepare(
    settings: ScoreSettings,
    shards: Sequence[Shard],
    output: str,
    folder: str,
    command: Sequence[str],
    overwrite: bool,
    checked: bool,
    names: ClassNames = ClassNames(),
) -> ScoringRun:
    """Checks that the run makes sense, and loads the classifier if there is something left to score.

    The classifier loaded here serves the workers of this process, too.

    Args:
      settings: what to compute.
      shards: of `sources.list_shards`, and surrogates of some of them.
      output: absolute path of the run's folder.
      folder: where `sources.list_shards` left its lists of images.
      command: the command line, for `run.json`.
      overwrite: whether to start afresh.
      checked: whether to check on a few in-distribution images that the classifier is fed correctly. What the first
        records show about labels and colours is said either way.
      names: of the classes; a run that has begun goes on with those that it began with.

    Raises:
      UsageError: it does not; nothing was written.
    """
    if overwrite:
        run_folder.refuse_overwriting(output)
    else:
        settings = _as_begun(output, _named_as_begun(output, settings, names))
        run_folder.refuse_other_settings(output, settings.identity(), settings.table)
    expected = expected_images(shards, output, folder, settings.features, settings.table)
    shared, scorer, warnings, unavailable = Shared(), None, [], {}
    is_begun = not overwrite and run_folder.read_facts(output, layout.RUN) is not None
    earlier, labels_fit = _finished(output, shards) if is_begun else None, True
    if earlier is None:
        shared, scorer = _loaded(settings)
        print(_description(scorer), file=sys.stderr)
        if line := converted_colours(shards, folder, settings.features, scorer.classifier.input_shape):
            print(line, file=sys.stderr)
        inside = [shard for shard in shards if shard.role == "in_distribution"]
        warnings = missing_labels(inside, folder, settings.features)
        if not checked:
            labels = sample_labels(inside, folder, settings.features)
            beyond = quick_check.labels_beyond(labels, scorer.classifier.classes)
            warnings += [f"WARNING: {beyond}"] if beyond else []
            labels_fit = not beyond
        else:
            shown, is_precise, labels_fit = _check(scorer, shards, folder, settings)
            warnings += shown
            if not is_precise:
                settings = replace(settings, precision="float32")
                if not overwrite:
                    run_folder.refuse_other_settings(output, settings.identity(), settings.table)
                shared, scorer = _loaded(settings)
        unavailable = scorer.unavailable
        if not is_begun:
            settings = replace(settings, class_names=names.of_model(scorer.classifier.classes, labels_fit))
    else:
        warnings = [text for text in earlier.get("warnings", []) if isinstance(text, str)]
        reasons = earlier.get("without_scores")
        unavailable = reasons if isinstance(reasons, dict) else {}
    for warning in warnings:
        print(warning, file=sys.stderr)
    return ScoringRun(
        settings, output, shards, folder, command, overwrite, expected, shared, scorer, warnings, unavailable
    )


def images_to_do(scoring: ScoringRun) -> list[int]:
    """How many images are expected in each shard that has no scores yet."""
    done = set()
    if not scoring.overwrite:
        scores = layout.all_parquet(layout.rows_folder(scoring.output, scoring.settings.table))
        done = {stat.path for stat in listing.list_files(scores)}
    return [images for path, images in scoring.expected.items() if path not in done]


def launch(scoring: ScoringRun) -> None:
    """Writes `run.json`, and removes the completion marker of an earlier run.

    Raises:
      UsageError: another run with other settings got the folder first.
    """
    output = scoring.output
    if scoring.overwrite:
        run_folder.start_afresh(output)
    with _usage_errors():
        run_file.claim(output, scoring.settings, scoring.command)
    publish_listings(scoring.folder, output)
    write_manifest(output, scoring.shards)
    writing.delete(paths.join(output, name) for name in (layout.SUMMARY, layout.METRICS))


def scored_shards(
    pipeline: beam.Pipeline, scoring: ScoringRun, accelerator: str | None = None
) -> dict[str, beam.PCollection]:
    """The run's shards, `finished` and `failed`, as `ScoreShards` gives them."""
    score = ScoreShards(scoring.settings, scoring.output, scoring.shared, accelerator)
    # The step claims the folder once more, now that our manifest is in it.
    with _usage_errors():
        return pipeline | ReadManifest(scoring.output, manifest_digest(scoring.shards)) | score


def run(pipeline: beam.Pipeline, scoring: ScoringRun) -> str | None:
    """Runs the pipeline and shows its progress; see `submit`."""
    if scoring.scorer and (warning := imbalance(images_to_do(scoring), workers(pipeline.options))):
        print(warning, file=sys.stderr)
    share_cores(pipeline.options)
    return submit(pipeline, show_progress("scoring", sum(scoring.expected.values()), "images", _State(scoring)))


def _loaded(settings: ScoreSettings) -> tuple[Shared, Scorer]:
    """The classifier, and its handle for the workers of this process."""
    shared = Shared()
    with model_errors():
        return shared, shared.acquire(lambda: Scorer(settings))


def _named_as_begun(output: str, settings: ScoreSettings, names: ClassNames) -> ScoreSettings:
    """The settings with the class names that the user asked for, else those that an earlier run here began with."""
    if (earlier := run_folder.read_facts(output, layout.RUN)) is None:
        return settings
    begun = run_folder.class_names(output, earlier)
    if names.given is None and names.found and begun is None:
        print("continuing without class names, as this run began: --overwrite starts afresh with them", file=sys.stderr)
    return replace(settings, class_names=begun if names.given is None else names.given.names)


def _as_begun(output: str, settings: ScoreSettings) -> ScoreSettings:
    """The settings that an earlier run here began with, if they differ only in what nobody asked for.

    That run may have gone on in float32 for lack of precision, or began when there were fewer detectors by default.
    """
    if (earlier := run_folder.read_facts(output, layout.RUN)) is None:
        return settings
    detectors = [settings.detectors]
    if settings.detectors == DETECTORS:
        detectors.append(FIRST_DETECTORS)
    for chosen, precision in itertools.product(detectors, dict.fromkeys([settings.precision, "float32"])):
        begun = replace(settings, detectors=chosen, precision=precision)
        if not run_file.differences(earlier["settings"], begun.identity()):
            if precision != settings.precision:
                print("continuing in float32, as this run began", file=sys.stderr)
            if chosen != settings.detectors:
                later = ", ".join(name for name in settings.detectors if name not in chosen)
                print(
                    f"continuing without {later}, which an earlier version began this run without: --overwrite starts "
                    "afresh with them",
                    file=sys.stderr,
                )
            return begun
    return settings


def _check(
    scorer: Scorer, shards: Sequence[Shard], folder: str, settings: ScoreSettings
) -> tuple[list[str], bool, bool]:
    """What a few images show: warnings about how the classifier is fed, whether the precision will do, and whether the
    labels are in the order of its outputs.

    Raises:
      UsageError: it is clearly fed wrongly.
    """
    pixels, labels = _sample(scorer, shards, folder, settings)
    if not len(pixels):
        return [], True, True
    warnings, labels_fit = quick_check.quick_check(scorer.classifier, pixels, labels, settings)
    is_precise = settings.precision == "float32" or _is_precise_enough(scorer, pixels, settings)
    return warnings, is_precise, labels_fit


def _is_precise_enough(scorer: Scorer, pixels: np.ndarray, settings: ScoreSettings) -> bool:
    """Says how mixed precision differs from float32 on a few images."""
    difference = compare_precisions(scorer, pixels, settings)
    correlations = ", ".join(f"{name} {value:.4f}" for name, value in difference.rank_correlations.items())
    outcome = "" if difference.is_small else ": too much, so it goes on in float32"
    print(
        f"{settings.precision} against float32 on {plural(difference.images, 'image')}: {difference.changed} "
        f"predictions changed, rank correlation {correlations}{outcome}",
        file=sys.stderr,
    )
    return difference.is_small


def _sample(
    scorer: Scorer, shards: Sequence[Shard], folder: str, settings: ScoreSettings
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of a few in-distribution images.

    Those of the archive serve where there are none: they may be foreign, but rarely all of one class.
    """
    inside = [shard for shard in shards if shard.role == "in_distribution"]
    looked_at = inside or [shard for shard in shards if shard.role == "input"]
    pixels, labels = sample_images(looked_at, folder, settings, scorer.classifier.input_shape, quick_check.IMAGES)
    return pixels, labels if inside else np.full_like(labels, -1)


def _description(scorer: Scorer) -> str:
    classifier, gpus = scorer.classifier, tf.config.list_physical_devices("GPU")
    height, width, channels = classifier.input_shape
    device = f"{len(gpus)} GPU" if gpus else "CPU"
    slow = f"\nthe model runs as it was loaded, which is slower: {scorer.as_loaded}" if scorer.as_loaded else ""
    policy = f"; saved as {classifier.saved_policy}, computed in float32" if classifier.saved_policy else ""
    nulls = "".join(
        f"\n{', '.join(names)}: {reason}; the columns are null" for reason, names in _by_reason(scorer.unavailable)
    )
    return (
        f"classifier: {height} x {width} x {channels} -> {classifier.classes} classes, {classifier.head}; on {device}"
        f"{policy}{nulls}{slow}"
    )


def _by_reason(unavailable: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """(reason, detectors), for each reason once."""
    reasons: dict[str, list[str]] = {}
    for name, reason in unavailable.items():
        reasons.setdefault(reason, []).append(name)
    return list(reasons.items())


def _finished(output: str, shards: Sequence[Shard]) -> dict[str, Any] | None:
    """The summary of an earlier run that has finished just these shards, so that no classifier need be loaded."""
    summary = run_folder.read_facts(output, layout.SUMMARY)
    if not summary or not summary.get("complete"):
        return None
    try:
        return summary if read_manifest(output) == list(shards) else None
    except StorageError:
        return None


class _State:
    """How far the run is: counted in images if this process scores, in committed shards if other processes do."""

    def __init__(self, scoring: ScoringRun):
        self._scores = layout.all_parquet(layout.rows_folder(scoring.output, scoring.settings.table))
        self._expected = scoring.expected
        self._scorer = scoring.scorer
        self._before = self._committed()
        self._started = time.monotonic()

    def __call__(self) -> tuple[int, str]:
        if self._scorer and (here := round(self._scorer.images)):
            rate = here / (time.monotonic() - self._started)
            return self._before[0] + here, f"{here:,} images, {rate:,.0f}/s"
        images, count = self._committed()
        return images, f"{count:,} of {len(self._expected):,} shards"

    def _committed(self) -> tuple[int, int]:
        present = [stat.path for stat in listing.list_files(self._scores)]
        images = [self._expected[path] for path in present if path in self._expected]
        return sum(images), len(images)
