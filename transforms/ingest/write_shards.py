"""Image files -> TFRecord shards of `tf.train.Example`, with TensorFlow Datasets' feature names.

One element is one output shard: the DoFn reads the shard's files in sequence and writes their Examples to a temporary
file, whose rename to the final name publishes the complete shard. Images never cross a shuffle; reports do.

Features: `image` (the encoded bytes unchanged), `label` (int64; absent if unknown), `id` (bytes), `image/uri`
(bytes: where the image came from).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import apache_beam as beam
import tensorflow as tf
from apache_beam.metrics import Metrics

from odin_beam.transforms import errors, limits
from odin_beam.transforms.images import decoding
from odin_beam.transforms.images.example import URI_FEATURE
from odin_beam.transforms.ingest.image_files import read_members
from odin_beam.transforms.ingest.members import MemberBytes, Reject, folder_of, printable
from odin_beam.transforms.ingest.output_names import OutputNames
from odin_beam.transforms.ingest.shard_plan import ShardPlan, read_plan
from odin_beam.transforms.ingest.summary import ShardReport
from odin_beam.transforms.ingest.tfrecord_writer import TFRecordWriter


def example(image: bytes, label: int | None, member_id: str, uri: str) -> bytes:
    """A serialized `tf.train.Example`; the same arguments give the same bytes."""
    texts = {"id": member_id, URI_FEATURE: uri}
    features = {name: _bytes_feature(text.encode("utf-8", "surrogateescape")) for name, text in texts.items()}
    features["image"] = _bytes_feature(image)
    if label is not None:
        features["label"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[label]))
    message = tf.train.Example(features=tf.train.Features(feature=features))
    return message.SerializeToString(deterministic=True)


def _bytes_feature(value: bytes) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))


def write_shard(plan: ShardPlan, labels: Mapping[str, int], output: OutputNames) -> ShardReport:
    """Writes and publishes one shard; the in-memory heart of the job.

    Args:
      plan: which shard, and the files that go into it.
      labels: label of each class, by the name of its folder; files in other folders get no label.
      output: names of the output files.

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
    """A file cannot become an Example; the message says why."""


def _payload(content: MemberBytes, label: int | None) -> bytes:
    if content.problem:
        raise _Refused(content.problem)
    try:
        decoding.check_header(content.data)
    except errors.ImageError as e:
        raise _Refused(f"{e.reason.replace('_', ' ')}: {e.detail}") from e
    payload = example(content.data, label, content.member.id, content.member.uri)
    if len(payload) > limits.MAX_RECORD_BYTES:
        raise _Refused(f"too large: a record of {len(payload)} bytes; the limit is {limits.MAX_RECORD_BYTES}")
    return payload


class WriteShard(beam.DoFn):
    """A shard's number -> its `ShardReport`; arguments as in `write_shard`."""

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
    """A pipeline's start -> `ShardReport`s of the published shards.

    Args:
      labels: label of each class, by the name of its folder.
      output: names of the output files, including the plan, and how many shards.
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
