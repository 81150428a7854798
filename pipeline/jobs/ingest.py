"""`odin-beam ingest`: turns images in folders, globs or archives into TFRecord shards; also reshards TFRecords.

    odin-beam ingest --images photos/ --output shards/photos --shards 16
    odin-beam ingest --images 'old/*.tfrecord.gz' --output new/photos --shards 64

It writes:

    PREFIX-00000-of-00016.tfrecord ...   tf.train.Example with `image`, `id` and, where known, `label`
    labels.txt                           next to them; class names, line number = label; PREFIX-labels.txt if another
                                         output has written other names there
    PREFIX-rejected.csv                  what was rejected and why, if anything: id, reason, source
    PREFIX-summary.json                  counts; written last: where it exists, the run is complete

The order is that of the arguments, then of the paths, and running twice gives the same bytes. Every shard is written
under a temporary name and published by a rename; a run starts by removing the files of an earlier run with the same
PREFIX, so that two runs cannot mix.

A label is that of the image's folder. Folders are classes if there are at least two, side by side, with all images
directly in them: none lies beside them or deeper. Only files named as images count (without any, those without an
extension), so that `annotations/*.xml` does not matter. `--labels folders` takes the folder of each image wherever it
is, and so does `--class_names`, which gives the order; `--labels none` takes none.
"""

import collections
import contextlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.ingest import IngestOptions
from odin_beam.pipeline.launch.class_names import read_class_names
from odin_beam.pipeline.launch.matching import nothing_matched
from odin_beam.pipeline.launch.progress import show_progress
from odin_beam.pipeline.launch.tensorflow_import import import_tensorflow
from odin_beam.pipeline.show.next_step import after_ingest
from odin_beam.pipeline.show.plural import plural
from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.images.formats import EXTENSIONS
from odin_beam.transforms.ingest.image_files import is_tfrecord, list_members, with_common_root
from odin_beam.transforms.ingest.labels_file import class_names_in, labels_file
from odin_beam.transforms.ingest.members import Member, Reject, folder_of, printable
from odin_beam.transforms.ingest.output_names import OutputNames
from odin_beam.transforms.ingest.shard_plan import plan_shards, write_plans
from odin_beam.transforms.storage import listing, paths, reading, writing
from odin_beam.transforms.storage.matched_files import Matched, match_files

_CLASSES_SHOWN = 10

Argument = TypeVar("Argument")
Listed = TypeVar("Listed")


def run(options: IngestOptions) -> int:
    """Writes the shards and prints what they hold; returns the exit code.

    Raises:
      UsageError: before anything is written.
    """
    output = OutputNames(options.output, options.shards)
    refuse_output(output)
    class_names = distinct_class_names(options.class_names) if options.class_names else None
    matched = match(options.images, output)
    resharding = hold_tfrecords(matched)
    if resharding and (class_names or options.labels):
        flag = "--class_names" if class_names else "--labels"
        raise UsageError(f"{flag} goes with images: records keep the labels that they have")
    if class_names and options.labels == "none":
        raise UsageError("--labels none and --class_names contradict each other: give one of them")
    import_tensorflow()
    return _write(
        options, output, _reshard(matched, output) if resharding else _new_shards(options, matched, class_names, output)
    )


def _reshard(matched: Sequence[Matched], output: OutputNames) -> "Making":
    from odin_beam.transforms.ingest.reshard import Reshard

    _remove_earlier(output)
    return Making(Reshard([file.path for argument in matched for file in argument.files], output), "records")


def _new_shards(
    options: IngestOptions, matched: Sequence[Matched], class_names: Sequence[str] | None, output: OutputNames
) -> "Making":
    from odin_beam.transforms.ingest.write_shards import WriteShards

    members, rejects = list_images(matched)
    labels, unlabelled = class_labels(members, class_names, options.labels)
    path = labels_path(output, labels)
    _remove_earlier(output)
    write_plans(output.plan, plan_shards(members, rejects, output.shards))
    if labels:
        writing.write_bytes(path, labels_file(labels))
    return Making(WriteShards(labels, output), "images", tuple(labels), path, unlabelled)


@dataclass(frozen=True)
class Making:
    """The transform that makes the shards, and what is known about it.

    Attributes:
      shards: a PTransform from a pipeline's start to `ShardReport`s.
      unit: what goes into them, `images` or `records`.
      classes: names of the classes that have labels, in their order.
      labels_path: where these names are.
      unlabelled: why there are none.
    """

    shards: Any
    unit: str
    classes: tuple[str, ...] = ()
    labels_path: str = ""
    unlabelled: str = ""


def _write(options: IngestOptions, output: OutputNames, making: Making) -> int:
    import apache_beam as beam

    from odin_beam.pipeline.runners.beam_options import beam_options
    from odin_beam.pipeline.runners.submit import submit
    from odin_beam.transforms.ingest.summary import WriteSummary

    pipeline = beam.Pipeline(options=beam_options(options.beam))
    reports = pipeline | "MakeShards" >> making.shards
    reports | beam.combiners.ToList() | "WriteSummary" >> beam.ParDo(WriteSummary(output))
    if handed := submit(pipeline, show_progress("writing", output.shards, "shards", lambda: _published(output))):
        print(f"{handed}; {output.summary} appears when the job is done")
        return 0
    return report(output, making)


def report(output: OutputNames, making: Making) -> int:
    """Prints what a finished run has written, and where; returns the exit code."""
    summary = json.loads(reading.read_bytes(output.summary))
    written, labelled = summary["written"], summary["labelled"]
    shards = f"{output.prefix}-*.tfrecord"
    if making.unit == "records":
        remark = "payloads as they were"
    elif making.classes:
        remark = f"{labelled:,} labelled in {len(making.classes):,} classes, {written - labelled:,} unlabelled"
    else:
        remark = f"unlabelled: {making.unlabelled}"
    counted = plural(written, making.unit.removesuffix("s"))
    print(f"{counted}{f' ({remark})' if written else ''} in {plural(output.shards, 'shard')}: {shards}")
    if making.classes:
        shown = ", ".join(map(printable, making.classes[:_CLASSES_SHOWN]))
        print(f"labels: {making.labels_path} ({shown}{', ...' if len(making.classes) > _CLASSES_SHOWN else ''})")
    if summary["rejected"]:
        print(f"rejected: {summary['rejected']:,}, with reasons in {output.rejected}")
        for line in summary["first_rejected"]:
            print(f"  {line}")
        if summary["rejected"] > len(summary["first_rejected"]):
            print("  ...")
    if summary["damaged"]:
        print(f"{summary['damaged']:,} of them for damaged or unreadable input: images may be missing")
    if written:
        print(after_ingest(shards, labelled > 0))
    return 3 if summary["damaged"] or not written else 0


def refuse_output(output: OutputNames) -> None:
    """Checks that PREFIX can begin the names of shards, and that a glob for them will match no other files.

    Raises:
      UsageError: it cannot, or there are others.
    """
    prefix = output.prefix
    if any(c in prefix for c in "*?["):
        raise UsageError(f"--output {prefix}: a PREFIX must not hold *, ? or [")
    if prefix.endswith("/") or (paths.is_local(prefix) and os.path.isdir(prefix)):
        example = paths.join(prefix, "images")
        raise UsageError(f"--output {prefix} is a folder: give a prefix for the names of the shards, such as {example}")
    with _as_usage_error():
        names = sorted(_names_beside(output))
    for name in names:
        shard = re.fullmatch(r"-\d{5,}-of-(\d{5,})\.tfrecord", name)
        if shard and int(shard[1]) != output.shards:
            raise UsageError(
                f"{prefix}{name} belongs to a different number of shards, and {prefix}-*.tfrecord would match it: "
                f"remove {prefix}-*-of-{shard[1]}.tfrecord, or choose another --output"
            )


def _names_beside(output: OutputNames) -> list[str]:
    """Names of files that begin with PREFIX, the PREFIX removed."""
    folder, name = paths.parent(output.prefix), output.prefix.rpartition("/")[2]
    if paths.is_local(folder):
        # Beam would also list everything in subfolders.
        names = os.listdir(folder) if os.path.isdir(folder) else []
    else:
        names = [stat.path.rpartition("/")[2] for stat in listing.list_files(f"{output.prefix}-*")]
    return [other.removeprefix(name) for other in names if other.startswith(name)]


def _published(output: OutputNames) -> tuple[int, str]:
    """How many shards are done: the number, and an empty remark."""
    present = {output.prefix + name for name in _names_beside(output)}
    count = sum(output.shard(index) in present for index in range(output.shards))
    return count, f"{count:,} of {output.shards:,} shards"


def match(patterns: Sequence[str], output: OutputNames) -> list[Matched]:
    """The files of every `--images` argument, without duplicates and without the files of this output.

    Raises:
      UsageError: one matches nothing, or cannot be listed.
    """
    seen = {output.labels, output.own_labels, output.rejected, output.summary, *map(output.shard, range(output.shards))}
    arguments = []
    for pattern, listed in zip(patterns, _list_each(match_files, patterns), strict=True):
        matched = listed.without_skipped()
        if not matched.files:
            with _as_usage_error():
                raise UsageError(f"--images {pattern} {nothing_matched(pattern, listed)}")
        files = tuple(
            file
            for file in matched.files
            if file.path not in seen and not file.path.startswith(f"{output.unfinished}/")
        )
        seen.update(file.path for file in files)
        arguments.append(Matched(matched.root, files))
    if not any(argument.files for argument in arguments):
        raise UsageError(f"--images matches only what --output {output.prefix} names: choose another --output")
    return with_common_root(arguments)


def _list_each(list_one: Callable[[Argument], Listed], arguments: Sequence[Argument]) -> list[Listed]:
    done, total = [], len(arguments)
    with show_progress("listing", total, "arguments", lambda: (len(done), f"{len(done)} of {total} arguments")):
        for argument in arguments:
            with _as_usage_error():
                done.append(list_one(argument))
    return done


@contextlib.contextmanager
def _as_usage_error() -> Iterator[None]:
    try:
        yield
    except StorageError as e:
        raise UsageError(str(e)) from e


def hold_tfrecords(matched: Iterable[Matched]) -> bool:
    """Whether the files are TFRecords; all must be, or none.

    Raises:
      UsageError: only some are.
    """
    paths = [file.path for argument in matched for file in argument.files]
    tfrecord = next(filter(is_tfrecord, paths), None)
    other = next((path for path in paths if not is_tfrecord(path)), None)
    if tfrecord and other:
        raise UsageError(
            f"{tfrecord} is TFRecord and {other} is not: give either images or TFRecords, "
            "for example by a pattern such as 'DIR/*.tfrecord'"
        )
    return tfrecord is not None


def list_images(matched: Sequence[Matched]) -> tuple[list[Member], list[Reject]]:
    """The files behind all arguments, in order, and those rejected already.

    Raises:
      UsageError: there is nothing to take, or an archive cannot be read.
    """
    listed = _list_each(list_members, matched)
    members = [member for found, _ in listed for member in found]
    rejects = [reject for _, refused in listed for reject in refused]
    damaged = next((reject for reject in rejects if reject.damage), None)
    if not members and damaged:
        raise UsageError(f"{damaged.source}: {damaged.reason}")
    if not members and not rejects:
        raise UsageError("--images matches archives without any file in them")
    return members, rejects


def distinct_class_names(path: str) -> list[str]:
    """The lines of a file of class names.

    Raises:
      UsageError: it cannot be read, is empty, or names a class twice.
    """
    names = read_class_names(path)
    if twice := [name for name, count in collections.Counter(names).items() if count > 1]:
        raise UsageError(f"--class_names {path} names {twice[0]!r} more than once")
    return names


def class_labels(
    members: Iterable[Member], class_names: Sequence[str] | None, mode: str | None = None
) -> tuple[dict[str, int], str]:
    """Label of each class, in the order of labels, and if there are none, why.

    Args:
      members: the image files.
      class_names: in the order of labels; None takes the names of the folders, sorted.
      mode: `folders`, `none`, or None to take the folders if they look like classes.

    Raises:
      UsageError: a folder is not in `class_names`, or has a newline in its name.
    """
    if mode == "none":
        return {}, "as --labels none says"
    extensions = {member.id: os.path.splitext(member.id)[1].lower() for member in members}
    # Without names of images, those without any extension may be images, such as files named by their digest.
    named = [image for image, extension in extensions.items() if extension in EXTENSIONS]
    images = named or [image for image, extension in extensions.items() if not extension]
    folders = {folder for image in images if (folder := folder_of(image))}
    if class_names is not None:
        if unknown := sorted(folders.difference(class_names)):
            more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
            raise UsageError(f"folder {unknown[0]!r} is not in --class_names{more}: add it there, or leave it out")
        return {name: label for label, name in enumerate(class_names)}, ""
    if mode is None and (reason := not_classes(images)):
        return {}, reason
    if not folders:
        return {}, "the images lie in no folder"
    if broken := next((folder for folder in folders if "\n" in folder), None):
        raise UsageError(f"folder {broken!r} contains a newline, which labels.txt cannot represent: rename it")
    return {name: label for label, name in enumerate(sorted(folders))}, ""


def not_classes(images: Sequence[str]) -> str | None:
    """Why the folders of images do not look like classes; None if they do.

    Args:
      images: their ids, paths with `/`.
    """
    folders = {image.rpartition("/")[0] for image in images}
    split = [folder.split("/") if folder else [] for folder in folders]
    if len(folders - {""}) < 2:
        return "fewer than two class folders"
    levels = zip(*split, strict=False)
    common = sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, levels))
    deeper = next((parts for parts in split if len(parts) > common + 1), None)
    if any(len(parts) == common for parts in split):
        reason = "there are images beside the folders"
    elif deeper:
        reason = f"there are images in folders of folders, such as {printable('/'.join(deeper))}"
    else:
        return None
    return f"{reason}; --labels folders takes each image's folder for its class all the same"


def labels_path(output: OutputNames, labels: Mapping[str, int]) -> str:
    """Where the class names go: `labels.txt` next to the shards, unless another output has written others there.

    Raises:
      UsageError: that file cannot be read.
    """
    with _as_usage_error():
        present = (
            class_names_in(reading.read_bytes(output.labels)) if labels and listing.stat_file(output.labels) else None
        )
    return output.labels if present is None or present == list(labels) else output.own_labels


def _remove_earlier(output: OutputNames) -> None:
    """Removes an earlier run's shards, so that the two cannot mix; its summary, the completion marker, goes first."""
    writing.delete([output.summary, output.rejected, output.own_labels, *map(output.shard, range(output.shards))])
