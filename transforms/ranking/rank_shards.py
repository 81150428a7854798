"""Ranks the rows of a run's committed scores, with their flags: a few rows per shard leave the workers.

OUTPUT/top.json   the rows that `top` was last asked for
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa

from odin_beam.transforms import errors
from odin_beam.transforms.metrics.extreme_rows import keep_first
from odin_beam.transforms.metrics.summarize_scores import failures
from odin_beam.transforms.ranking.first_rows import ROW_COLUMNS, Ranking, first_rows, merged
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables import layout, scores_file
from odin_beam.transforms.tables.flags_file import FlagsInStep
from odin_beam.transforms.tables.json_files import write_json


@dataclass(frozen=True)
class RankSettings:
    """What is ranked.

    Attributes:
      output: absolute path of the run's folder.
      identity: the settings in the fingerprint.
      ranking: which rows are wanted.
      flags: name of the flags to read; None for those without a name.
    """

    output: str
    identity: dict[str, Any]
    ranking: Ranking
    flags: str | None = None


@dataclass
class RankShards(beam.PTransform):
    """{`finished`: `Shard`s, `failed`: (`Shard`, reason)} -> `top.json` in the run's folder.

    Args:
      settings: what is ranked.
    """

    settings: RankSettings

    def expand(self, shards) -> beam.PCollection[str]:
        ranking = self.settings.ranking
        read = (
            shards["finished"]
            | "Wanted" >> beam.Filter(lambda shard: shard.source in ranking.sources)
            | "Spread" >> beam.Reshuffle()
            | beam.ParDo(_Rank(self.settings)).with_outputs("failed", main="ranked")
        )
        failed = (shards["failed"], read.failed) | beam.Flatten()
        keep = functools.partial(keep_first, count=ranking.count)
        return (
            shards["finished"].pipeline
            | "Once" >> beam.Create([self.settings.output])
            | "WriteTop"
            >> beam.Map(
                _write_top,
                self.settings,
                beam.pvalue.AsDict(read.ranked | "First" >> beam.CombinePerKey(keep)),
                beam.pvalue.AsList(failed),
            )
        )


class _Rank(beam.DoFn):
    """`Shard` -> (stratum, entries); one whose rows cannot be used goes to `failed`: (`Shard`, reason)."""

    def __init__(self, settings: RankSettings):
        self._settings = settings

    def process(self, shard: Shard):
        try:
            ranked = list(ranked_shard(self._settings, shard).items())
        except errors.StorageError as e:
            ranked = [beam.pvalue.TaggedOutput("failed", (shard, str(e)))]
        yield from ranked


def ranked_shard(settings: RankSettings, shard: Shard) -> dict[str, list[tuple]]:
    """The first rows of a shard by stratum, see `first_rows`.

    Raises:
      StorageError: its scores or flags cannot be read, or do not belong together.
    """
    ranking, strata = settings.ranking, {}
    for scores, flags in _scores_and_flags(settings, shard):
        for name, entries in first_rows(ranking, scores, flags, shard).items():
            strata[name] = keep_first([strata.get(name, []), entries], ranking.count)
    return strata


def _scores_and_flags(settings: RankSettings, shard: Shard) -> Iterator[tuple[pa.Table, pa.Table | None]]:
    """Tables of the same rows, a row group of scores at a time."""
    columns = [*dict.fromkeys([*ROW_COLUMNS, settings.ranking.detector])]
    path = layout.scores_path(settings.output, shard)
    flags = FlagsInStep(settings.output, shard, settings.flags) if settings.ranking.flagged else None
    for scores in scores_file.read_scores(path, scores_file.fingerprint(settings.identity, shard), columns):
        yield scores, None if flags is None else flags.of(scores["index"])
    if flags is not None:
        flags.refuse_more()


def _write_top(
    output: str, settings: RankSettings, strata: Mapping[str, list[tuple]], failed: list[tuple[Shard, str]]
) -> str:
    rows = merged(settings.ranking, dict(strata))
    content = {
        "ranking": asdict(settings.ranking),
        "flags": settings.flags,
        "rows": rows,
        "failed_shards": failures(failed),
    }
    write_json(output, layout.TOP, content)
    return output
