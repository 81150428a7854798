r"""`odin-beam score`: images in, one Parquet row per image and detection metrics out.

    odin-beam score --model classifier.keras --output scores \\
      --in_distribution 'cifar10=data/cifar10-*.tfrecord' --out_distribution 'tin=files:tiny_imagenet/**.png' \\
      --out_distribution noise:gaussian,noise:uniform

On Dataflow:

    odin-beam score --model gs://B/classifier.keras --output gs://B/scores --input 'gs://B/archive/*.tfrecord' \\
      --runner=DataflowRunner --project=P --region=R --temp_location=gs://B/tmp \\
      --sdk_location=container --sdk_container_image=IMAGE \\
      --dataflow_service_options='worker_accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver'
"""

import collections
import itertools
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import apache_beam as beam
import tensorflow as tf
from apache_beam.io.filesystems import FileSystems
from apache_beam.utils.shared import Shared

import transforms
from pipeline import check, run_folder, sources
from pipeline.metrics_table import metrics_table, summary_text
from pipeline.options import ScoreOptions, UsageError, beam_options, score_settings
from pipeline.progress import show_progress
from transforms import images, shard_images, storage
from transforms.image_list import FETCHES_AT_ONCE
from transforms.manifest import ReadManifest, read_manifest, write_manifest
from transforms.model_file import ClassifierError
from transforms.records import Record
from transforms.sample_images import sample_images
from transforms.score_shards import Scorer, ScoreSettings, ScoreShards
from transforms.shards import FeatureNames, ImageList, Shard, TFRecords
from transforms.summarize_scores import RunFacts, SummarizeScores, write_json

# How much of a source is read at launch to see that it holds images.
SHARDS_TRIED = 8
RECORDS_TRIED = 16


def run(options: ScoreOptions) -> int:
    """Scores what is not scored yet, sums up, and prints the result; gives the exit code.

    Raises:
      UsageError: before anything is written.
    """
    with tempfile.TemporaryDirectory(prefix="odin-beam-listings-") as folder:
        return _run(options, folder)


def _run(options: ScoreOptions, folder: str) -> int:
    launched = time.time()
    run_folder.refuse_output(options.output)
    shards = sources.list_shards(options.sources, folder, options.output)
    settings = _settings(options)
    if options.overwrite:
        run_folder.refuse_overwriting(options.output)
    else:
        run_folder.refuse_other_settings(options.output, settings.identity())
    expected = {}
    for group in _by_kind(shards):
        mean_bytes = _check_images(group, folder, settings.features)
        expected.update((shard.output_name, _expected_images(shard, mean_bytes)) for shard in group)
    shared = Shared()
    scorer = None if _was_complete(options, shards) else _scorer(settings, shared)
    if scorer:
        print(_description(scorer, settings.detectors), file=sys.stderr)
        if options.check:
            _check(scorer, shards, folder, settings)

    _write_launch(options, settings, shards, folder)
    facts = RunFacts(settings.identity(), calibrated=False, launched=launched)
    roles = {shard.source: shard.role for shard in shards}
    pipeline = beam.Pipeline(options=beam_options(options.beam))
    scored = pipeline | ReadManifest(options.output) | ScoreShards(settings, options.output, shared)
    scored | SummarizeScores(options.output, roles, facts)
    with show_progress("scoring", sum(expected.values()), "images", _State(options.output, expected, scorer)):
        result = pipeline.run()
        if type(result).__name__ == "DataflowPipelineResult":
            print(f"submitted; {FileSystems.join(options.output, 'summary.json')} appears when it is done")
            return 0
        result.wait_until_finish()
    return report(options.output, options.max_rejected)


def report(output: str, max_rejected: float) -> int:
    """Prints what a finished run found and where it lies; gives the exit code."""
    summary = run_folder.read_json(output, "summary.json")
    if metrics := run_folder.read_json(output, "metrics.json"):
        print(metrics_table(metrics), end="\n\n")
    print(summary_text(summary))
    print(f"scores: {FileSystems.join(output, 'scores')}  ({summary['seconds']:.0f} s)")
    share = summary["rejected_share"]
    if share > max_rejected:
        where = FileSystems.join(output, "rejects")
        print(f"{share:.2%} of the records were rejected, more than --max_rejected {max_rejected:g}: see {where}")
    return 3 if share > max_rejected or not summary["complete"] else 0


def _settings(options: ScoreOptions) -> ScoreSettings:
    try:
        return score_settings(options)
    except ClassifierError as e:
        raise UsageError(str(e)) from e


def _scorer(settings: ScoreSettings, shared: Shared) -> Scorer:
    """Loads the classifier before the run starts: a bad one is a usage error, a good one serves local workers too."""
    try:
        return shared.acquire(lambda: Scorer(settings))
    except ClassifierError as e:
        raise UsageError(str(e)) from e


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
        except storage.StorageError:
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
            images.check_header(parsed.image)
    except images.ImageError as e:
        if e.reason == "no_image":
            return f"{shard.path}: {e.detail}; name it with --image_feature"
        return f"{record.id}: {e.detail}" if e.reason == "not_an_image" else ""
    return None


def _was_complete(options: ScoreOptions, shards: Sequence[Shard]) -> bool:
    """Whether an earlier run has finished just these shards, so that the classifier need not even be loaded."""
    summary = None if options.overwrite else run_folder.read_json(options.output, "summary.json")
    if not summary or not summary.get("complete"):
        return False
    try:
        return read_manifest(options.output) == list(shards)
    except storage.StorageError:
        return False


def _write_launch(options: ScoreOptions, settings: ScoreSettings, shards: Sequence[Shard], folder: str) -> None:
    """Leaves in the folder what this run is, and takes away the mark of completion of an earlier one."""
    output = options.output
    if options.overwrite:
        run_folder.start_afresh(output)
    if storage.stat_file(FileSystems.join(output, "run.json")) is None:
        write_json(output, "run.json", _run_description(settings))
    sources.publish_listings(folder, output)
    write_manifest(output, shards)
    storage.delete(FileSystems.join(output, name) for name in ("summary.json", "metrics.json"))


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

    def __init__(self, output: str, expected: Mapping[str, int], scorer: Scorer | None):
        self._scores = FileSystems.join(output, "scores", "**.parquet")
        self._expected = expected
        self._scorer = scorer
        self._before = self._committed()
        self._started = time.monotonic()

    def __call__(self) -> tuple[int, str]:
        if self._scorer and (here := self._scorer.images):
            rate = here / (time.monotonic() - self._started)
            return self._before[0] + here, f"{here:,} images, {rate:,.0f}/s"
        images, count = self._committed()
        return images, f"{count:,} of {len(self._expected):,} shards"

    def _committed(self) -> tuple[int, int]:
        present = [stat.path.rpartition("/")[2] for stat in storage.list_files(self._scores)]
        images = [self._expected[name] for name in present if name in self._expected]
        return sum(images), len(images)
