"""Image files -> TFRecord shards of `tf.train.Example`, with TensorFlow Datasets' feature names.

One element is one output shard: the DoFn reads its files one after the other and writes their Examples to a temporary
file, whose rename to the final name publishes the shard whole. Images never cross a shuffle; reports do.

Features: `image` (the encoded bytes as they are), `label` (int64; absent where there is none), `id` (bytes).
"""

import contextlib
import csv
import io
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import tensorflow as tf
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.metrics import Metrics

from odin_beam.transforms import errors
from odin_beam.transforms.images import decoding
from odin_beam.transforms.ingest.image_files import Content, Reject, folder_of, printable, read_members
from odin_beam.transforms.ingest.shard_plan import ShardPlan, read_plan
from odin_beam.transforms.shards import records
from odin_beam.transforms.storage import writing

REJECTS_SHOWN = 10


@dataclass(frozen=True)
class OutputNames:
    """Where everything of one output goes.

    Attributes:
      prefix: absolute path that the names begin with.
      shards: how many shards there are.
    """

    prefix: str
    shards: int

    def shard(self, index: int) -> str:
        return f"{self.prefix}-{index:05d}-of-{self.shards:05d}.tfrecord"

    @property
    def rejected(self) -> str:
        return f"{self.prefix}-rejected.csv"

    @property
    def summary(self) -> str:
        return f"{self.prefix}-summary.json"

    @property
    def labels(self) -> str:
        return FileSystems.join(FileSystems.split(self.prefix)[0], "labels.txt")

    @property
    def unfinished(self) -> str:
        """Folder of what is only there while the job runs."""
        return f"{self.prefix}-unfinished"

    @property
    def plan(self) -> str:
        return FileSystems.join(self.unfinished, "plan.parquet")


@dataclass(frozen=True)
class ShardReport:
    """What became of one output shard.

    Attributes:
      index: its number.
      written: records in it.
      labelled: those with a label.
      rejects: what was to go into it, and did not.
    """

    index: int
    written: int
    labelled: int = 0
    rejects: tuple[Reject, ...] = ()


def example(image: bytes, label: int | None, member_id: str) -> bytes:
    """A serialized `tf.train.Example`; the same bytes for the same arguments."""
    features = {"image": _bytes_feature(image), "id": _bytes_feature(member_id.encode("utf-8", "surrogateescape"))}
    if label is not None:
        features["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    made = tf.train.Example(features=tf.train.Features(feature=features))
    return made.SerializeToString(deterministic=True)


def _bytes_feature(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


class ShardWriter:
    """A shard in the making: a context that publishes it when left in peace, and drops it after an error.

    Args:
      output: names of the output.
      index: the shard's number.

    Raises:
      errors.StorageError: on entry, on leaving or from `write`: the storage refused.
    """

    def __init__(self, output: OutputNames, index: int):
        self._final = output.shard(index)
        self._temporary = FileSystems.join(output.unfinished, uuid.uuid4().hex)
        self.written = 0

    def __enter__(self) -> "ShardWriter":
        with self._as_storage_error():
            self._stream = FileSystems.create(self._temporary, compression_type=CompressionTypes.UNCOMPRESSED)
        return self

    def write(self, payload: bytes) -> None:
        with self._as_storage_error():
            self._stream.write(records.frame(payload))
        self.written += 1

    def __exit__(self, error, *_):
        try:
            if error is None:
                with self._as_storage_error():
                    self._stream.close()
                writing.publish(self._temporary, self._final)
        finally:
            # After an error that error is the one to report, not that the remains would not go.
            with contextlib.suppress(Exception):
                self._stream.close()
            with contextlib.suppress(Exception):
                writing.delete([self._temporary])

    @contextlib.contextmanager
    def _as_storage_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as e:
            raise errors.StorageError(f"cannot write {self._final}: {errors.cause(e)}") from e


def write_shard(plan: ShardPlan, labels: Mapping[str, int], output: OutputNames) -> ShardReport:
    """Writes and publishes one shard; the in-memory heart of the job.

    Args:
      plan: which shard, and what goes into it.
      labels: label of each class, by the name of its folder; files in other folders get none.
      output: where it goes.

    Raises:
      errors.StorageError: an archive cannot be read, or the shard cannot be written.
    """
    labelled, rejects = 0, list(plan.rejects)
    with ShardWriter(output, plan.index) as writer:
        for content in read_members(plan.members):
            member = content.member
            label = labels.get(folder_of(member.id))
            try:
                writer.write(_payload(content, label))
            except _Refused as e:
                rejects.append(Reject(printable(member.id), str(e), member.container.path, content.damage))
            else:
                labelled += label is not None
    return ShardReport(plan.index, writer.written, labelled, tuple(rejects))


class _Refused(Exception):
    """A file gives no Example; the message says why."""


def _payload(content: Content, label: int | None) -> bytes:
    if content.problem:
        raise _Refused(content.problem)
    try:
        decoding.check_header(content.data)
    except errors.ImageError as e:
        raise _Refused(f"{e.reason.replace('_', ' ')}: {e.detail}") from e
    payload = example(content.data, label, content.member.id)
    if len(payload) > records.MAX_RECORD_BYTES:
        raise _Refused(f"too large: a record of {len(payload)} bytes; the limit is {records.MAX_RECORD_BYTES}")
    return payload


class WriteShard(beam.DoFn):
    """Number of a shard -> its `ShardReport`; arguments as in `write_shard`."""

    def __init__(self, labels: Mapping[str, int], output: OutputNames):
        self._labels = labels
        self._output = output

    def process(self, index: int):
        report = write_shard(read_plan(self._output.plan, index), self._labels, self._output)
        Metrics.counter("WriteShard", "images_written").inc(report.written)
        Metrics.counter("WriteShard", "files_rejected").inc(len(report.rejects))
        yield report


@dataclass
class WriteShards(beam.PTransform):
    """A pipeline's start -> `ShardReport`s, the shards of the plan being published.

    Args:
      labels: label of each class, by the name of its folder.
      output: where the plan is, where the shards go, and how many.
    """

    labels: Mapping[str, int]
    output: OutputNames

    def expand(self, start: beam.pvalue.PBegin) -> beam.PCollection[ShardReport]:
        return (
            start
            | "Shards" >> beam.Create(range(self.output.shards))
            | "Balance" >> beam.Reshuffle()
            | "WriteShard" >> beam.ParDo(WriteShard(self.labels, self.output))
        )


class WriteSummary(beam.DoFn):
    """The list of all `ShardReport`s -> the rejects as a table, if there are any, and the summary.

    The summary comes last: its presence means that the output is complete.

    Args:
      output: where the shards are.
    """

    def __init__(self, output: OutputNames):
        self._output = output

    def process(self, reports: list[ShardReport]):
        reports = sorted(reports, key=lambda report: report.index)
        rejects = [reject for report in reports for reject in report.rejects]
        if rejects:
            writing.write_bytes(self._output.rejected, rejects_table(rejects))
        writing.delete_folder(self._output.unfinished)
        writing.write_bytes(self._output.summary, json.dumps(summary(reports, rejects), indent=1).encode() + b"\n")


def rejects_table(rejects: Iterable[Reject]) -> bytes:
    """CSV with the columns `id`, `reason` and `source`."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("id", "reason", "source"))
    table.writerows((reject.id, reject.reason, reject.source) for reject in rejects)
    return text.getvalue().encode("utf-8", "backslashreplace")


def summary(reports: Sequence[ShardReport], rejects: Sequence[Reject]) -> dict[str, Any]:
    """What was written and what was not, in JSON; shows some rejects, those of damaged input first."""
    shown = sorted(rejects, key=lambda reject: not reject.damage)[:REJECTS_SHOWN]
    return {
        "shards": len(reports),
        "written": sum(report.written for report in reports),
        "labelled": sum(report.labelled for report in reports),
        "rejected": len(rejects),
        "damaged": sum(reject.damage for reject in rejects),
        "first_rejected": [f"{reject.id}: {reject.reason}" for reject in shown],
    }
