"""Turns a batch's score columns into rows of the scores file."""

import numpy as np
import pyarrow as pa

from odin_beam.transforms.scoring.batches import DecodedBatch
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables.schemas import SPLIT_COLUMNS


def score_rows(
    shard: Shard | None,
    decoded: DecodedBatch,
    columns: dict[str, np.ndarray],
    schema: pa.Schema,
    class_names: pa.Array | None = None,
) -> pa.RecordBatch:
    """The finite rows of a scored batch, in the order of the shard; columns without scores are null.

    Args:
      shard: the shard with these rows; None for rows without a shard.
      decoded: N images, with what is known of them.
      columns: by name, [N] or [N, D]; `finite` says which rows are kept.
      schema: of the rows.
      class_names: K names, string; None where the classes have none.
    """
    finite = columns["finite"]
    rows = [row for row, good in zip(decoded.rows, finite, strict=True) if good]
    known = {"index", "offset", "id", "uri", "label", *(column.name for column in SPLIT_COLUMNS)} & set(schema.names)
    arrays = {name: [row[name] for row in rows] for name in known}
    if shard is not None:
        arrays["shard"] = [shard.path] * len(rows)
    if class_names is not None and "class_name" in schema.names:
        arrays["class_name"] = class_names.take(pa.array(columns["prediction"][finite]))
    return pa.record_batch(
        [
            pa.array(arrays[column.name], column.type)
            if column.name in arrays
            else score_column(columns.get(column.name), finite, column.type)
            for column in schema
        ],
        schema=schema,
    )


def score_column(column: np.ndarray | None, finite: np.ndarray, dtype: pa.DataType) -> pa.Array:
    """A column of the finite rows; nulls if there is none.

    Args:
      column: [N], or [N, D] for a type that is a list of a fixed size; None for a column without scores.
      finite: bool [N].
      dtype: of the column.
    """
    if column is None:
        return pa.nulls(int(finite.sum()), dtype)
    if pa.types.is_fixed_size_list(dtype):
        stored = np.dtype(f"f{dtype.value_type.bit_width // 8}")
        # Features beyond the range of float16 become its largest numbers: infinity would spoil the image's scores.
        numbers = np.clip(column[finite].ravel(), np.finfo(stored).min, np.finfo(stored).max).astype(stored)
        return pa.FixedSizeListArray.from_arrays(pa.array(numbers), dtype.list_size)
    values = pa.array(column[finite]).cast(dtype).to_numpy()
    # A score that overflows its column becomes null: infinity has no place in a ranking.
    return pa.array(values, dtype, mask=~np.isfinite(values))
