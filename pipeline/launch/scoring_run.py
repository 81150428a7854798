"""What every job that scores does: see that the command makes sense, launch the run, show how it comes along."""

import collections
import contextlib
import itertools
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import tensorflow as tf
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.shared import Shared

from odin_beam import transforms
from odin_beam.pipeline.flags.options import UsageError
from odin_beam.pipeline.jobs import check
from odin_beam.pipeline.launch import run_folder, sources
from odin_beam.pipeline.launch.progress import show_progress
from odin_beam.pipeline.runners.dataflow import handed_over
from odin_beam.pipeline.runners.local_workers import run_pipeline
from odin_beam.pipeline.runners.workers import imbalance, scores_here, share_cores, workers
from odin_beam.transforms import errors
from odin_beam.transforms.errors import ClassifierError
from odin_beam.transforms.forward.mixed_precision import has_bfloat16
from odin_beam.transforms.images import decoding
from odin_beam.transforms.scoring.sample_images import sample_images
from odin_beam.transforms.scoring.score_shards import ScoreShards
from odin_beam.transforms.scoring.scorer import Scorer
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards import shard_images
from odin_beam.transforms.shards.image_list import FETCHES_AT_ONCE
from odin_beam.transforms.shards.manifest import ReadManifest, manifest_digest, read_manifest, write_manifest
from odin_beam.transforms.shards.records import Record
from odin_beam.transforms.shards.shard import FeatureNames, ImageList, Shard, Surrogate, TFRecords
from odin_beam.transforms.storage import listing, paths, writing
from odin_beam.transforms.tables.json_files import write_json
from odin_beam.transforms.tables.layout import scores_path

# How much of a source is read at launch to see that it holds images.
SHARDS_TRIED = 8
RECORDS_TRIED = 16


@dataclass(frozen=True, eq=False)
class ScoringRun:
    """A run that is ready to be launched.

    Attributes:
      settings: what to compute.
      output: absolute path of the run's folder.
      shards: all of them, finished or not.
      folder: local; where `sources.list_shards` left its lists of images.
      overwrite: whether what an earlier run left goes first.
      expected: images that each scores file is expected to hold, by its path.
      shared: handle of `scorer`, for the workers of this process.
      scorer: the classifier; None where an earlier run has finished everything.
    """

    settings: ScoreSettings
    output: str
    shards: Sequence[Shard]
    folder: str
    overwrite: bool
    expected: dict[str, int]
    shared: Shared
    scorer: Scorer | None


@contextlib.contextmanager
def model_errors() -> Iterator[None]:
    """Before the run starts, a model that cannot be used is a usage error."""
    try:
        yield
    except ClassifierError as e:
        raise UsageError(str(e)) from e


def settle_precision(settings: ScoreSettings, options: PipelineOptions) -> ScoreSettings:
    """float32 in place of `mixed`, with a line that says so, where this machine scores and has no bfloat16."""
    if settings.precision == "float32" or not scores_here(options) or has_bfloat16():
        return settings
    print("warning: this machine computes nothing in bfloat16: --precision mixed becomes float32", file=sys.stderr)
    return replace(settings, precision="float32")


def prepare(
    settings: ScoreSettings, shards: Sequence[Shard], output: str, folder: str, overwrite: bool, checked: bool
) -> ScoringRun:
    """Sees that the run makes sense, and loads the classifier if there is something left to score.

    The classifier loaded here serves the workers of this process, too.

    Args:
      settings: what to compute.
      shards: of `sources.list_shards`, and surrogates of some of them.
      output: absolute path of the run's folder.
      folder: where `sources.list_shards` left its lists of images.
      overwrite: whether to start afresh.
      checked: whether to see on a few in-distribution images that the classifier is fed rightly.

    Raises:
      UsageError: it makes none; nothing was written.
    """
    if overwrite:
        run_folder.refuse_overwriting(output)
    else:
        run_folder.refuse_other_settings(output, settings.identity())
    counts = {}
    for group in _by_kind([shard for shard in shards if not isinstance(shard.content, Surrogate)]):
        mean_bytes = _check_images(group, folder, settings.features)
        counts.update(((shard.path, shard.output_name), _expected_images(shard, mean_bytes)) for shard in group)
    # Surrogates have the path and the name of the shard that they are made of.
    expected = {scores_path(output, shard): counts[shard.path, shard.output_name] for shard in shards}
    shared, scorer = Shared(), None
    if overwrite or not _was_complete(output, shards):
        with model_errors():
            scorer = shared.acquire(lambda: Scorer(settings))
        print(_description(scorer, settings.detectors), file=sys.stderr)
        if checked:
            _check(scorer, shards, folder, settings)
    return ScoringRun(settings, output, shards, folder, overwrite, expected, shared, scorer)


def images_to_do(scoring: ScoringRun) -> int:
    """How many images are expected in the shards that have no scores yet."""
    done = set()
    if not scoring.overwrite:
        done = {stat.path for stat in listing.list_files(paths.join(scoring.output, "scores", "**.parquet"))}
    return sum(images for path, images in scoring.expected.items() if path not in done)


def launch(scoring: ScoringRun) -> None:
    """Leaves in the folder what this run is, and takes away the mark of completion of an earlier one."""
    output = scoring.output
    if scoring.overwrite:
        run_folder.start_afresh(output)
    if listing.stat_file(paths.join(output, "run.json")) is None:
        write_json(output, "run.json", _run_description(scoring.settings))
    sources.publish_listings(scoring.folder, output)
    write_manifest(output, scoring.shards)
    writing.delete(paths.join(output, name) for name in ("summary.json", "metrics.json"))


def scored_shards(
    pipeline: beam.Pipeline, scoring: ScoringRun, accelerator: str | None = None
) -> dict[str, beam.PCollection]:
    """The run's shards, `finished` and `failed`, as `ScoreShards` gives them."""
    score = ScoreShards(scoring.settings, scoring.output, scoring.shared, accelerator)
    return pipeline | ReadManifest(scoring.output, manifest_digest(scoring.shards)) | score


def run(pipeline: beam.Pipeline, scoring: ScoringRun) -> str | None:
    """Runs the pipeline and shows its progress; what became of it where it goes on without us, see `handed_over`."""
    if scoring.scorer and (warning := imbalance(scoring.expected.values(), workers(pipeline.options))):
        print(warning, file=sys.stderr)
    share_cores(pipeline.options)
    with show_progress("scoring", sum(scoring.expected.values()), "images", _State(scoring)):
        result = run_pipeline(pipeline)
        handed = handed_over(result)
        if not handed:
            result.wait_until_finish()
    return handed


def _check(scorer: Scorer, shards: Sequence[Shard], folder: str, settings: ScoreSettings) -> None:
    """Warns or refuses where a few in-distribution images show that the classifier is fed wrongly."""
    inside = [shard for shard in shards if shard.role == "in_distribution"]
    pixels, labels = sample_images(inside, folder, settings, scorer.classifier.input_shape, check.QUICK_IMAGES)
    if len(pixels):
        for warning in check.quick_check(scorer.classifier, pixels, labels, settings):
            print(warning, file=sys.stderr)


def _description(scorer: Scorer, chosen: Sequence[str]) -> str:
    classifier, gpus = scorer.classifier, tf.config.list_physical_devices("GPU")
    height, width, channels = classifier.input_shape
    device = f"{len(gpus)} GPU" if gpus else "CPU"
    policy = f"; saved as {classifier.saved_policy}, computed in float32" if classifier.saved_policy else ""
    missing = classifier.unavailable(chosen)
    nulls = f"\nno {', '.join(missing)}: such a head does not give them, the columns are null" if missing else ""
    return (
        f"classifier: {height} x {width} x {channels} -> {classifier.classes} classes, {classifier.head}; on {device}"
        f"{policy}{nulls}"
    )


def _by_kind(shards: Sequence[Shard]) -> list[list[Shard]]:
    """The shards of each source apart, and in it those of each kind and list."""
    groups = collections.defaultdict(list)
    for shard in shards:
        groups[shard.source, type(shard.content), getattr(shard.content, "listing", None)].append(shard)
    return list(groups.values())


def _check_images(shards: Sequence[Shard], folder: str, features: FeatureNames) -> float:
    """Sees that shards of one kind hold images where they are looked for, before hours are spent on rejecting them all.

    Only what speaks for a slip of the command line is refused; damage is the run's to deal with.

    Returns:
      Mean size in bytes of the records looked at; 0 where none could be read.

    Raises:
      UsageError: a file that is something else than TFRecord, or not one image where the first ones should be.
    """
    slips, sizes = [], []
    for shard in shards[:SHARDS_TRIED]:
        first = _first_records(shard, folder)
        sizes += [len(record.payload) for record in first if record.payload]
        found = [_slip(record, shard, features) for record in first]
        if None in found:
            return sum(sizes) / len(sizes) if sizes else 0.0
        slips += filter(None, found)
    if slips:
        raise UsageError(f"source {shards[0].source}: {slips[0]}")
    return 0.0


def _expected_images(shard: Shard, mean_bytes: float) -> int:
    """How many images to expect, for the progress: known of a virtual shard, estimated of a file."""
    if not isinstance(shard.content, TFRecords):
        return shard.content.count
    return max(1, round(shard.size / mean_bytes)) if mean_bytes else 1


def _first_records(shard: Shard, folder: str) -> list[Record]:
    with ThreadPoolExecutor(FETCHES_AT_ONCE) as fetchers:
        try:
            return list(itertools.islice(shard_images.read_records(shard, folder, fetchers), RECORDS_TRIED))
        except errors.StorageError:
            return []


def _slip(record: Record, shard: Shard, features: FeatureNames) -> str | None:
    """What about the command line a record without image speaks against; empty for damage; None for an image.

    Raises:
      UsageError: the file is none of the kind that it is read as.
    """
    reason, detail = record.problem or (None, None)
    if reason == "not_tfrecord":
        raise UsageError(
            f"source {shard.source}: {shard.path}: {detail}; `odin-beam ingest` makes TFRecord, "
            "and files:GLOB reads loose images"
        )
    if reason == "not_found":
        return f"{detail}; the first images listed are not there"
    if reason:
        return ""
    try:
        parsed = shard_images.parse_record(record, shard, features)
        if isinstance(shard.content, ImageList):
            decoding.check_header(parsed.image)
    except errors.ImageError as e:
        if e.reason == "no_image":
            return f"{shard.path}: {e.detail}; name it with --image_feature"
        return f"{record.id}: {e.detail}" if e.reason == "not_an_image" else ""
    return None


def _was_complete(output: str, shards: Sequence[Shard]) -> bool:
    """Whether an earlier run has finished just these shards, so that the classifier need not even be loaded."""
    summary = run_folder.read_json(output, "summary.json")
    if not summary or not summary.get("complete"):
        return False
    try:
        return read_manifest(output) == list(shards)
    except errors.StorageError:
        return False


def _run_description(settings: ScoreSettings) -> dict[str, Any]:
    return {
        "settings": settings.identity(),
        "model": settings.model,
        "batch_size": settings.batch_size,
        "versions": {
            "odin_beam": transforms.__version__,
            "apache_beam": beam.__version__,
            "tensorflow": tf.__version__,
            "python": platform.python_version(),
        },
        "command": sys.argv[1:],
    }


class _State:
    """How far a run has come: by its own images where this process scores, by committed shards where others do."""

    def __init__(self, scoring: ScoringRun):
        self._scores = paths.join(scoring.output, "scores", "**.parquet")
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
