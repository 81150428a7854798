"""The manifest's shards as a PCollection."""

import apache_beam as beam

from odin_beam.transforms.shards.manifest_file import read_manifest, read_own_manifest
from odin_beam.transforms.shards.shard import Shard


class ReadManifest(beam.PTransform):
    """Begin -> the `Shard`s of a run's manifest, spread over the workers.

    Args:
      output: the run's folder.
      digest: of the shards the run was launched with; None if it does not matter who launched it.
    """

    def __init__(self, output: str, digest: str | None = None):
        super().__init__()
        self._output = output
        self._digest = digest

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Shard]:
        return (
            begin
            | "Folder" >> beam.Create([self._output])
            | "Read" >> (beam.FlatMap(read_own_manifest, self._digest) if self._digest else beam.FlatMap(read_manifest))
            | "Spread" >> beam.Reshuffle()
        )
