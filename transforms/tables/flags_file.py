"""The rows of a file of flags, in step with those of the scores that they judge."""

import pyarrow as pa
import pyarrow.compute as pc

from odin_beam.transforms import errors
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables import layout
from odin_beam.transforms.tables.parquet import read_columns

# Of a row of flags, beside its key.
FLAG_COLUMNS = ("p_value", "is_ood")


class FlagsInStep:
    """A shard's flags, read a part at a time.

    Args:
      output: the run's folder.
      shard: whose flags are read.
      name: of the flags; None for those without one.
    """

    def __init__(self, output: str, shard: Shard, name: str | None):
        self._path = layout.flags_path(output, shard, name)
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
