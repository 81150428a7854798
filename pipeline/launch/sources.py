"""What a PATTERN of the command line means: its shards.

    GLOB                        TFRecord files of tf.train.Example, .gz recognised
    files:GLOB                  loose images, listed once at launch; an image's id is its path
    manifest:FILE               a CSV or Parquet table of images: `uri`, and if wanted `label` (class index) and `id`
    tfds:NAME[:VERSION]/SPLIT   a data set that TensorFlow Datasets has prepared in --tfds_data_dir
    noise:gaussian|uniform      --noise_count images of noise

Listings are sorted and free of duplicates; a manifest keeps its order.
"""

import itertools
import os
from collections.abc import Iterable, Iterator

from odin_beam.pipeline.flags.options import SOURCE_NAME, SourceOptions, SourcePattern, UsageError
from odin_beam.pipeline.launch.image_manifest import UNWRITABLE, manifest_rows
from odin_beam.pipeline.launch.prepared_dataset import find_split
from odin_beam.transforms import errors
from odin_beam.transforms.shards.image_list import ListWriter
from odin_beam.transforms.shards.noise import DISTRIBUTIONS
from odin_beam.transforms.shards.shard import IMAGES_PER_SHARD, FeatureNames, ImageList, Noise, Shard, TFRecords
from odin_beam.transforms.storage import listing, paths, writing
from odin_beam.transforms.storage.listing import FileStat
from odin_beam.transforms.tables.layout import scores_file_name

# Of the run's folder: where lists of images lie.
LISTINGS = "listings"


def list_shards(options: SourceOptions, folder: str, output: str | None = None) -> list[Shard]:
    """The shards of all sources: by source in the order given, then by path; none twice within a source.

    Args:
      options: the patterns, and what they need.
      folder: local; lists of images are written below it, to be copied into the run's folder with `publish_listings`.
      output: the run's folder, if there is one: what lies in it is no input, whatever a glob says.

    Raises:
      UsageError: a pattern matches nothing, cannot be listed, or means nothing.
    """
    shards: dict[tuple[str, str, int], Shard] = {}
    for source in options.patterns:
        for shard in _LISTERS[source.kind](source, options, folder, output):
            first = 0 if isinstance(shard.content, TFRecords) else shard.content.first
            shards.setdefault((shard.source, shard.path, first), shard)
    names: dict[tuple[str, str], Shard] = {}
    for shard in shards.values():
        if (other := names.setdefault((shard.source, shard.output_name), shard)) is not shard:
            raise UsageError(f"{other.path} and {shard.path} would share a scores file: make them two sources")
    order = {name: i for i, name in enumerate(dict.fromkeys(source.name for source in options.patterns))}
    return sorted(shards.values(), key=lambda shard: (order[shard.source], shard.path, shard.output_name))


def publish_listings(folder: str, output: str) -> None:
    """Copies the lists of images that `list_shards` wrote below `folder` into the run's folder.

    Raises:
      errors.StorageError: they cannot be written.
    """
    there = os.path.join(folder, LISTINGS)
    for name in sorted(os.listdir(there)) if os.path.isdir(there) else []:
        writing.copy_from_local(os.path.join(there, name), paths.join(output, LISTINGS, name))


def _files_of(source: SourcePattern, output: str | None) -> list[FileStat]:
    try:
        stats = listing.list_files(source.pattern)
    except errors.StorageError as e:
        raise UsageError(str(e)) from e
    stats = [stat for stat in stats if output is None or not stat.path.startswith(f"{output}/")]
    if not stats:
        raise UsageError(f"--{source.role} {source.pattern} {_nothing_there(source)}")
    for stat in stats:
        if UNWRITABLE.search(stat.path):
            shown = stat.path.encode("utf-8", "backslashreplace").decode()
            raise UsageError(f"--{source.role}: {shown!r} is no name that can be written down: rename that file")
    return stats


def _nothing_there(source: SourcePattern) -> str:
    """Why a pattern matches nothing, as far as can be seen."""
    pattern = source.pattern
    if paths.is_local(pattern) and os.path.isdir(pattern):
        glob, also = (
            ("**", "") if source.kind == "files" else ("*.tfrecord", f", or files:{pattern}/** for loose images")
        )
        return f"is a folder: give a pattern of the files in it, such as {os.path.join(pattern, glob)!r}{also}"
    before = pattern.partition("=")[0].rpartition("/")[2]
    if "=" not in pattern or SOURCE_NAME.fullmatch(before):
        return "matches no file"
    return (
        f"matches no file; if {before!r} was meant as a NAME: a NAME begins with a letter, then letters, digits, "
        "_ . and -"
    )


def _tfrecords(source: SourcePattern, options: SourceOptions, folder: str, output: str | None) -> Iterator[Shard]:
    return (_file_shard(source, stat, None) for stat in _files_of(source, output))


def _prepared(source: SourcePattern, options: SourceOptions, folder: str, output: str | None) -> Iterator[Shard]:
    paths, features = find_split(source.pattern, options.tfds_data_dir)
    for path in paths:
        stat = listing.stat_file(path)
        if stat is None:
            raise UsageError(f"{source.text} is not whole: {path} is missing; prepare it again")
        yield _file_shard(source, stat, features)


def _file_shard(source: SourcePattern, stat: FileStat, features: FeatureNames | None) -> Shard:
    name = scores_file_name(stat.path)
    return Shard(source.name, source.role, stat.path, stat.size, stat.modified, name, TFRecords(features))


def _loose_files(source: SourcePattern, options: SourceOptions, folder: str, output: str | None) -> Iterator[Shard]:
    earlier = itertools.takewhile(lambda other: other is not source, options.patterns)
    same = [other for other in earlier if (other.name, other.kind) == (source.name, source.kind)]
    # Where two patterns of a source overlap, an image counts once.
    listed = {stat.path for other in same for stat in _files_of(other, output)}
    stats = [stat for stat in _files_of(source, output) if stat.path not in listed]
    return _image_list(source, ({"uri": s.path, "size": s.size, "modified": s.modified} for s in stats), folder)


def _manifest(source: SourcePattern, options: SourceOptions, folder: str, output: str | None) -> Iterator[Shard]:
    rows = manifest_rows(source.pattern)
    return _image_list(source, _reachable(rows, source) if options.workers_elsewhere else rows, folder)


def _reachable(rows: Iterable[dict], source: SourcePattern) -> Iterator[dict]:
    """The rows unchanged, as long as they name nothing on this machine."""
    for row in rows:
        if paths.is_local(row["uri"]):
            raise UsageError(
                f"--{source.role} {source.text} lists {row['uri']}, which is on this machine, where Dataflow's workers "
                "cannot reach it: list gs:// paths"
            )
        yield row


def _image_list(source: SourcePattern, rows: Iterable[dict], folder: str) -> Iterator[Shard]:
    listing = f"{LISTINGS}/{source.name}-{scores_file_name(source.text, 0)}"
    local = os.path.join(folder, listing)
    os.makedirs(os.path.dirname(local), exist_ok=True)
    with ListWriter(local) as writer:
        for row in rows:
            writer.write([row])
    for part in writer.ranges:
        yield _virtual_shard(source, ImageList(listing, part.first, part.count, part.digest))


def _noise(source: SourcePattern, options: SourceOptions, folder: str, output: str | None) -> Iterator[Shard]:
    if source.pattern not in DISTRIBUTIONS:
        raise UsageError(f"--{source.role} {source.text}: the kinds of noise are {' and '.join(DISTRIBUTIONS)}")
    for first in range(0, options.noise_count, IMAGES_PER_SHARD):
        count = min(IMAGES_PER_SHARD, options.noise_count - first)
        yield _virtual_shard(source, Noise(source.pattern, first, count))


def _virtual_shard(source: SourcePattern, content: ImageList | Noise) -> Shard:
    return Shard(source.name, source.role, source.text, 0, 0.0, scores_file_name(source.text, content.first), content)


_LISTERS = {
    "tfrecord": _tfrecords,
    "files": _loose_files,
    "manifest": _manifest,
    "tfds": _prepared,
    "noise": _noise,
}
