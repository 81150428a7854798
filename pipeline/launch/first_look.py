"""A first look at the images, before hours are spent on rejecting them all."""

import collections
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.show.plural import plural
from odin_beam.transforms.errors import ImageError, StorageError
from odin_beam.transforms.images.decoding import image_channels
from odin_beam.transforms.images.digest import image_digest
from odin_beam.transforms.images.example import ImageRecord
from odin_beam.transforms.shards.contents.image_list import FETCHES_AT_ONCE
from odin_beam.transforms.shards.records import Record
from odin_beam.transforms.shards.shard import FeatureNames, Shard
from odin_beam.transforms.tables.layout import rows_path

# How much of a source is read at launch to check that it contains images.
SHARDS_TRIED = 8
RECORDS_TRIED = 16
# How many records are looked at for labels that the model has no class for, or for images that were fitted to.
RECORDS_SAMPLED = 64


def expected_images(
    shards: Sequence[Shard], output: str, folder: str, features: FeatureNames, table: str
) -> dict[str, int]:
    """How many images each file of the table is expected to hold, by its path, estimated from the first records.

    Args:
      shards: all of the run's.
      output: the run's folder.
      folder: where the lists of images are.
      features: names of the Example's features.
      table: that the run commits its shards to.

    Raises:
      UsageError: a source holds no images in the expected feature.
    """
    counts = {}
    for group in _by_kind([shard for shard in shards if not shard.content.is_derived()]):
        mean_bytes = _check_images(group, folder, features)
        for shard in group:
            counts[shard.path, shard.file_name] = shard.content.expected_images(shard, mean_bytes)
    return {rows_path(output, shard, table): counts[shard.path, shard.file_name] for shard in shards}


def missing_labels(shards: Sequence[Shard], folder: str, features: FeatureNames) -> list[str]:
    """Of each source whose first records have no label: why, by what is there in its place.

    Args:
      shards: of one or more sources.
      folder: where the lists of images are.
      features: names of the Example's features.
    """
    lines = []
    for group in _by_kind(shards):
        first = [record for record in _first_records(group[0], folder) if record.payload]
        problems = [group[0].content.missing_label(record, features) for record in first]
        if problems and all(problems):
            lines.append(f"source {group[0].source}: no labels: {problems[0]}; `label_feature` names the feature")
    return lines


def sample_labels(shards: Sequence[Shard], folder: str, features: FeatureNames) -> np.ndarray:
    """Labels of a few records of shards spread evenly over the list, since archives are often sorted by class.

    Args:
      shards: of one or more sources; unreadable shards are skipped.
      folder: where the lists of images are.
      features: names of the Example's features.

    Returns:
      int64 [N], -1 for a record without a label; N is 0 if nothing is readable.
    """
    sampled = _sampled(shards, folder, features)
    return np.array([-1 if image is None or image.label is None else image.label for image in sampled], np.int64)


def refuse_fitted_images(shards: Sequence[Shard], folder: str, features: FeatureNames, fitted: np.ndarray) -> None:
    """Checks on a few records that these are not the images that a reference was fitted to.

    Args:
      shards: in-distribution ones; unreadable shards are skipped.
      folder: where the lists of images are.
      features: names of the Example's features.
      fitted: int64 [N], ascending, digests of the images that it was fitted to.

    Raises:
      UsageError: some are.
    """
    sampled = [image for image in _sampled(shards, folder, features) if image is not None and image.image]
    known = np.isin([image_digest(image.image) for image in sampled], fitted).sum() if sampled else 0
    if known:
        raise UsageError(
            f"--in_distribution: {known} of {len(sampled)} images looked at are among those that --reference was "
            "fitted to: give others, or thresholds flag too many images"
        )


def _sampled(shards: Sequence[Shard], folder: str, features: FeatureNames) -> list[ImageRecord | None]:
    """What a few records contain, of shards spread evenly over the list; None for damaged ones."""
    tried = shards[:: -(-len(shards) // RECORDS_SAMPLED) or 1]
    per_shard = -(-RECORDS_SAMPLED // len(tried)) if tried else 0
    return [_parsed(record, shard, features) for shard in tried for record in _sample(shard, folder, per_shard)]


def converted_colours(
    shards: Sequence[Shard], folder: str, features: FeatureNames, input_shape: tuple[int, int, int]
) -> str | None:
    """Which of the first images are grey where the classifier takes colour, or the other way round; None if none is.

    Args:
      shards: all of the run's.
      folder: where the lists of images are.
      features: names of the Example's features.
      input_shape: (height, width, channels) of the classifier's input; channels is 1 or 3.
    """
    converted, looked_at = collections.Counter(), collections.Counter()
    for group in _by_kind([shard for shard in shards if not shard.content.is_derived()]):
        for record in _first_records(group[0], folder):
            parsed = _parsed(record, group[0], features)
            if parsed and (channels := image_channels(parsed, input_shape)):
                looked_at[group[0].source] += 1
                converted[group[0].source] += channels != input_shape[2]
    counts = [
        f"{count} of the {looked_at[source]} looked at in {source}" for source, count in converted.items() if count
    ]
    if not counts:
        return None
    how = "grey images become colour by repetition" if input_shape[2] == 3 else "colour images become grey by luma"
    return f"{how}, since the model's input has {plural(input_shape[2], 'channel')}: {', '.join(counts)}"


def _parsed(record: Record, shard: Shard, features: FeatureNames) -> ImageRecord | None:
    """What a record contains; None if it is damaged."""
    if not record.payload:
        return None
    try:
        return shard.content.parse(record, features)
    except ImageError:
        return None


def _by_kind(shards: Sequence[Shard]) -> list[list[Shard]]:
    """Groups of shards by source, kind and list."""
    groups = collections.defaultdict(list)
    for shard in shards:
        groups[shard.source, type(shard.content), shard.content.list_path()].append(shard)
    return list(groups.values())


def _check_images(shards: Sequence[Shard], folder: str, features: FeatureNames) -> float:
    """Checks that shards of one kind hold images in the expected feature.

    Refuses only what points to a mistake in the command line; the run itself deals with damage.

    Returns:
      Mean size in bytes of the records looked at; 0 where none could be read.

    Raises:
      UsageError: a file that is not TFRecord, or no image where the first ones should be.
    """
    problems, sizes = [], []
    for shard in shards[:SHARDS_TRIED]:
        first = _first_records(shard, folder)
        sizes += [len(record.payload) for record in first if record.payload]
        found = [_usage_problem(record, shard, features) for record in first]
        if None in found:
            return sum(sizes) / len(sizes) if sizes else 0.0
        problems += filter(None, found)
    if problems:
        raise UsageError(f"source {shards[0].source}: {problems[0]}")
    return 0.0


def _first_records(shard: Shard, folder: str) -> list[Record]:
    with ThreadPoolExecutor(FETCHES_AT_ONCE) as fetchers:
        try:
            return list(itertools.islice(shard.content.read(shard, folder, fetchers), RECORDS_TRIED))
        except StorageError:
            return []


def _sample(shard: Shard, folder: str, count: int) -> list[Record]:
    with ThreadPoolExecutor(FETCHES_AT_ONCE) as fetchers:
        try:
            return shard.content.sample(shard, folder, fetchers, count)
        except StorageError:
            return []


def _usage_problem(record: Record, shard: Shard, features: FeatureNames) -> str | None:
    reason, detail = record.problem or (None, None)
    if reason == "not_tfrecord":
        raise UsageError(
            f"source {shard.source}: {shard.path}: {detail}; `odin-beam ingest` makes TFRecords, "
            "and files:GLOB reads loose images"
        )
    return shard.content.usage_problem(record, shard, features)
