"""The shards of an archive as the start of your own pipeline."""

import tempfile
from collections.abc import Sequence

import apache_beam as beam

from odin_beam.pipeline.flags.sources import source_patterns
from odin_beam.pipeline.launch import sources
from odin_beam.pipeline.launch.listings import publish_listings
from odin_beam.pipeline.launch.source_pattern import SourceOptions
from odin_beam.transforms.shards.manifest import ReadManifest
from odin_beam.transforms.shards.manifest_file import manifest_digest, write_manifest
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage.paths import absolute_path


class Shards(beam.PTransform):
    """Begin -> the `Shard`s of some sources, listed when the pipeline is built and written to OUTPUT's manifest.

    Each source is a PATTERN as on the command line, `NAME=PATTERN` if it is to have a name: a glob of TFRecord files,
    `files:GLOB`, `manifest:FILE`, `tfds:NAME/SPLIT` or `noise:gaussian`.

        >>> shards = odin_beam.Shards("out", in_distribution=["known=val-*.tfrecord"], input=["photos=files:*.jpg"])
        >>> [(pattern.name, pattern.role) for pattern in shards.options.patterns]
        [('known', 'in_distribution'), ('photos', 'input')]

    Args:
      output: the run's folder.
      in_distribution: images like those the classifier was trained on.
      out_distribution: images known to be out-of-distribution.
      input: images to be judged.
      noise_count: images per `noise:` source.
      tfds_data_dir: where `tfds:` sources are prepared.

    Raises:
      UsageError: when the pipeline is built: a pattern is invalid or matches nothing.
    """

    def __init__(
        self,
        output: str,
        *,
        in_distribution: Sequence[str] = (),
        out_distribution: Sequence[str] = (),
        input: Sequence[str] = (),
        noise_count: int = 10_000,
        tfds_data_dir: str = "~/tensorflow_datasets",
    ):
        super().__init__()
        self.output = absolute_path(output)
        roles = {"in_distribution": in_distribution, "out_distribution": out_distribution, "input": input}
        patterns = tuple(p for role, texts in roles.items() for text in texts for p in source_patterns(text, role))
        self.options = SourceOptions(tuple(dict.fromkeys(patterns)), noise_count, absolute_path(tfds_data_dir))

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Shard]:
        with tempfile.TemporaryDirectory(prefix="odin-beam-listings-") as folder:
            shards = sources.list_shards(self.options, folder, self.output)
            publish_listings(folder, self.output)
        write_manifest(self.output, shards)
        return begin | ReadManifest(self.output, manifest_digest(shards))
