"""Flags of `ingest`."""

import argparse
from dataclasses import dataclass

from odin_beam.pipeline.flags.job import Job
from odin_beam.pipeline.flags.parser import Parser, items, positive
from odin_beam.transforms.storage.paths import absolute_path


@dataclass(frozen=True)
class IngestOptions:
    """Options of `ingest`.

    Attributes:
      images: absolute paths or patterns of folders, images, archives or TFRecords.
      output: absolute path that the names of the shards begin with.
      shards: how many.
      class_names: absolute path of a file of class names in label order; None takes the folders.
      labels: `folders` or `none`; None takes the folders if they look like classes.
      beam: Beam's own flags.
    """

    images: tuple[str, ...]
    output: str
    shards: int
    class_names: str | None
    labels: str | None = None
    beam: tuple[str, ...] = ()


def _add_flags(parser: Parser) -> None:
    parser.add_list("--images", "PATTERN", "images to take; may be repeated", required=True)
    parser.add_argument("--output", required=True, metavar="PREFIX", help="shards are PREFIX-00000-of-0000N.tfrecord")
    parser.add_argument("--shards", required=True, type=positive, metavar="N", help="how many shards to write")
    parser.add_argument("--class_names", metavar="FILE", help="class names in label order, one per line")
    parser.add_argument(
        "--labels",
        choices=("folders", "none"),
        help="folders: an image's folder is its class; none: no labels (default: folders if they look like classes)",
    )


def _options(arguments: argparse.Namespace, beam: tuple[str, ...]) -> IngestOptions:
    return IngestOptions(
        tuple(absolute_path(pattern) for pattern in items(arguments.images)),
        absolute_path(arguments.output),
        arguments.shards,
        absolute_path(arguments.class_names) if arguments.class_names else None,
        arguments.labels,
        beam,
    )


JOB = Job(
    step=70,
    summary="turn images in folders or archives into TFRecord shards, or reshard TFRecords",
    description="PATTERN is a folder, a glob of images, a .zip or .tar archive (.tar.gz too), or a glob of TFRecord "
    "files to\nreshard. The shards hold tf.train.Example with TensorFlow Datasets' feature names.",
    add_flags=_add_flags,
    options=_options,
    worker_paths=lambda options: [*(("images", pattern) for pattern in options.images), ("output", options.output)],
)
