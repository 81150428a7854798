"""Image files -> TFRecord shards of `tf.train.Example`, with TensorFlow Datasets' feature names.

One element is one output shard: the DoFn reads its files one after the other and writes their Examples to a temporary
file, whose rename to the final name publishes the shard whole. Images never cross a shuffle; reports do.

Features: `image` (the encoded bytes as they are), `label` (int64; absent where there is none), `id` (bytes).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import apache_beam as beam
import tensorflow as tf
from apache_beam.metrics import Metrics

from odin_beam.transforms import errors, limits
from odin_beam.transforms.images import decoding
from odin_beam.transforms.ingest.image_files import read_members
from odin_beam.transforms.ingest.members import MemberBytes, Reject, folder_of, printable
from odin_beam.transforms.ingest.output_names import OutputNames
from odin_beam.transforms.ingest.shard_plan import ShardPlan, read_plan
from odin_beam.transforms.ingest.summary import ShardReport
from odin_beam.transforms.ingest.tfrecord_writer import TFRecordWriter


def example(image: bytes, label: int | None, member_id: str) -> bytes:
    """A serialized `tf.train.Example`; the same bytes for the same arguments."""
    features = {"image": _bytes_feature(image), "id": _bytes_feature(member_id.encode("utf-8", "surrogateescape"))}
    if label is not None:
        features["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    made = tf.train.Example(features=tf.train.Features(feature=features))
    return made.SerializeToString(deterministic=True)


def _bytes_feature(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


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
    with TFRecordWriter(output, plan.index) as writer:
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


def _payload(content: MemberBytes, label: int | None) -> bytes:
    if content.problem:
        raise _Refused(content.problem)
    try:
        decoding.check_header(content.data)
    except errors.ImageError as e:
        raise _Refused(f"{e.reason.replace('_', ' ')}: {e.detail}") from e
    payload = example(content.data, label, content.member.id)
    if len(payload) > limits.MAX_RECORD_BYTES:
        raise _Refused(f"too large: a record of {len(payload)} bytes; the limit is {limits.MAX_RECORD_BYTES}")
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
