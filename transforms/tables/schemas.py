"""The columns of every Parquet table of a run."""

from collections.abc import Sequence

import pyarrow as pa

SCHEMA_VERSION = 2
SCORE_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        ("offset", pa.int64()),
        pa.field("id", pa.string(), nullable=False),
        ("label", pa.int64()),
        pa.field("prediction", pa.int32(), nullable=False),
        ("odin", pa.float64()),
        ("odin_logit", pa.float64()),
        ("msp", pa.float64()),
        ("max_logit", pa.float32()),
        ("energy", pa.float32()),
        ("neg_entropy", pa.float32()),
        ("margin", pa.float32()),
        ("gen", pa.float32()),
        ("grad_norm", pa.float32()),
        ("cam_var", pa.float32()),
        ("cam_max", pa.float32()),
    ]
)
REJECT_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        ("offset", pa.int64()),
        ("id", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)


def grid_schema(cells: Sequence[str]) -> pa.Schema:
    """`SCORE_SCHEMA` with a double column for each cell of a grid in place of `odin` and `odin_logit`."""
    others = [column for column in SCORE_SCHEMA if column.name not in ("odin", "odin_logit")]
    return pa.schema([*others, *(pa.field(name, pa.float64()) for name in cells)])


FLAG_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("index", pa.int64(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("prediction", pa.int32(), nullable=False),
        ("score", pa.float64()),
        ("p_value", pa.float64()),
        ("is_ood", pa.bool_()),
    ]
)
