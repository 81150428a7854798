"""Ranks the rows of a run's committed scores, with their flags: a few rows per shard leave the workers.

OUTPUT/top.json   the rows that `top` was last asked for
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from odin_beam.transforms import errors
from odin_beam.transforms.metrics.summarize_scores import failures
from odin_beam.transforms.ranking.first_rows import FLAG_COLUMNS, ROW_COLUMNS, Ranking, first_rows, keep_first, merged
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables import layout, scores_file
from odin_beam.transforms.tables.json_files import write_json
from odin_beam.transforms.tables.parquet import read_columns


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
    flags = _Flags(settings, shard) if settings.ranking.flagged else None
    for scores in scores_file.read_scores(path, scores_file.fingerprint(settings.identity, shard), columns):
        yield scores, None if flags is None else flags.of(scores["index"])
    if flags is not None:
        flags.refuse_more()


class _Flags:
    """The rows of a file of flags, in step with those of the scores."""

    def __init__(self, settings: RankSettings, shard: Shard):
        self._path = layout.flags_path(settings.output, shard, settings.flags)
        self._shard = shard.path
        self._tables = read_columns(self._path, ["shard", "index", *FLAG_COLUMNS])
        self._rest: pa.Table | None = None

    def of(self, indexes: pa.ChunkedArray) -> pa.Table:
        """The flags of the next rows.

        Raises:
          StorageError: they are of other rows, or cannot be read.
        """
        parts = [] if self._rest is None else [self._rest]
        while sum(part.num_rows for part in parts) < len(indexes) and (table := next(self._tables, None)) is not None:
            parts.append(table)
        if not parts:
            raise self._stale()
        table = pa.concat_tables(parts)
        own, self._rest = table.slice(0, len(indexes)), table.slice(len(indexes))
        types = own.schema.field("p_value").type, own.schema.field("is_ood").type
        is_shard = pc.all(pc.equal(own["shard"], self._shard), min_count=0).as_py()
        if types != (pa.float64(), pa.bool_()) or not own["index"].equals(indexes) or not is_shard:
            raise self._stale()
        return own

    def refuse_more(self) -> None:
        """Raises:
        StorageError: there are flags of more rows than those of the scores.
        """
        if (self._rest is not None and self._rest.num_rows) or any(table.num_rows for table in self._tables):
            raise self._stale()

    def _stale(self) -> errors.StorageError:
        return errors.StorageError(f"{self._path} has flags of other rows than the scores: run `flag` again")


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
