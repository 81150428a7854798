"""From the committed scores of a grid to `calibration.json`."""

from collections.abc import Mapping
from dataclasses import dataclass

import apache_beam as beam

from odin_beam.transforms.calibration.calibration_content import CalibrateSettings, calibration_content
from odin_beam.transforms.calibration.calibration_file import write_calibration
from odin_beam.transforms.metrics.combine_scores import CombineScores
from odin_beam.transforms.metrics.counts import Counts
from odin_beam.transforms.metrics.summarize_scores import RunFacts, summary_report
from odin_beam.transforms.shards.manifest_file import manifest_digest, read_own_manifest, roles_of
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import writing
from odin_beam.transforms.tables import layout, run_file
from odin_beam.transforms.tables.json_files import write_json


@dataclass
class Calibrate(beam.PTransform):
    """{`finished`: `Shard`s, `failed`: (`Shard`, reason)} -> the calibration, then `summary.json` in the run's folder.

    Args:
      folder: absolute path of the run's folder.
      settings: of the calibration.
      launched: seconds since the epoch.
    """

    folder: str
    settings: CalibrateSettings
    launched: float

    def expand(self, shards) -> beam.PCollection[str]:
        counted = shards["finished"] | CombineScores(self.folder, [], self.settings.score.identity())
        return (
            shards["finished"].pipeline
            | "Once" >> beam.Create([self.folder])
            | "WriteCalibration"
            >> beam.Map(
                _write,
                self.settings,
                RunFacts(self.settings.score.identity(), calibrated=False, launched=self.launched),
                beam.pvalue.AsDict(counted["counts"]),
                beam.pvalue.AsList(shards["finished"]),
                beam.pvalue.AsList(shards["failed"]),
                beam.pvalue.AsList(counted["failed"]),
            )
        )


def _write(
    folder: str,
    settings: CalibrateSettings,
    facts: RunFacts,
    counts: Mapping[str, Counts],
    finished: list[Shard],
    failed: list[tuple[Shard, str]],
    damaged: list[tuple[Shard, str]],
) -> str:
    """Writes the calibration, unless a shard is missing from it, and then the completion marker.

    Raises:
      OutputTakenError: the folder now belongs to another run, and so do these files.
    """
    run_file.check_owner(folder, facts.settings)
    roles = roles_of(read_own_manifest(folder, manifest_digest([*finished, *(shard for shard, _ in failed)])))
    failed = [*failed, *damaged]
    if not failed:
        shards = sorted(finished, key=lambda shard: (shard.source, shard.path, shard.file_name))
        write_calibration(settings.output, calibration_content(folder, settings, roles, counts, shards))
    write_json(folder, layout.SUMMARY, summary_report(facts, roles, counts, failed, []))
    writing.delete_temporary(folder, {shard.file_name for shard in finished})
    return folder
