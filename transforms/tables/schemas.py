"""The columns of every Parquet table of a run; the score columns are derived from the registry of detectors."""

from collections.abc import Sequence

import pyarrow as pa

from odin_beam.transforms.detectors import registry

SCHEMA_VERSION = 2
GRID_SCHEMA_VERSION = 3
FEATURES_VERSION = 1
# Raised only when the rows of an unchanged shard would change, not for every release: finished shards stay finished.
ROWS_VERSION = "0.1.0"

_KEY = [
    pa.field("shard", pa.string(), nullable=False),
    pa.field("index", pa.int64(), nullable=False),
]
# Where the image is, absolute; null for an image that no file holds.
_URI = pa.field("uri", pa.string())
# Of the predicted class; null where the classes have no names.
_CLASS_NAME = pa.field("class_name", pa.string())
_DETECTOR_COLUMNS = [pa.field(name, dtype) for row in registry.ALL.values() for name, dtype in row.typed_columns]
SCORE_SCHEMA = pa.schema(
    [
        *_KEY,
        ("offset", pa.int64()),
        pa.field("id", pa.string(), nullable=False),
        _URI,
        ("label", pa.int64()),
        pa.field("prediction", pa.int32(), nullable=False),
        _CLASS_NAME,
        *_DETECTOR_COLUMNS,
    ]
)
# A finished file of an earlier version may lack these: they are null there.
LATER_COLUMNS = {
    **{column.name: column.type for column in (_URI, _CLASS_NAME)},
    **{
        name: SCORE_SCHEMA.field(name).type
        for row in registry.ALL.values()
        if row.name not in registry.FIRST_DETECTORS
        for name, _ in row.typed_columns
    },
}
# Which images belong together, for halves and resamples of them: the image's digest (of two, the second's), and the
# index of the first of two images that it was made of.
SPLIT_COLUMNS = [pa.field("image_digest", pa.int64(), nullable=False), pa.field("partner", pa.int64())]
FEATURE_TYPES = {"float32": pa.float32(), "float16": pa.float16()}
REJECT_SCHEMA = pa.schema(
    [
        *_KEY,
        ("offset", pa.int64()),
        ("id", pa.string()),
        _URI,
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
    ]
)
FLAG_SCHEMA = pa.schema(
    [
        *_KEY,
        pa.field("id", pa.string(), nullable=False),
        _URI,
        ("label", pa.int64()),
        pa.field("prediction", pa.int32(), nullable=False),
        _CLASS_NAME,
        ("score", pa.float64()),
        ("p_value", pa.float64()),
        ("is_ood", pa.bool_()),
    ]
)


def grid_schema(cells: Sequence[str]) -> pa.Schema:
    """`SCORE_SCHEMA` with `SPLIT_COLUMNS`, and a double column for each cell of a grid instead of ODIN's columns.

    Without `class_name`: the names that a calibration carries are chosen apart from its rows.
    """
    replaced = {_CLASS_NAME.name, *(name for name, _ in registry.ALL["odin"].typed_columns)}
    others = [column for column in SCORE_SCHEMA if column.name not in replaced]
    return pa.schema([*others, *SPLIT_COLUMNS, *(pa.field(name, pa.float64()) for name in cells)])


def features_schema(width: int, dtype: str = "float32") -> pa.Schema:
    """Columns of a file of features: the key, where the image is, its digest and classes, and numbers [width].

    Args:
      width: D, number of features.
      dtype: of the features, one of `FEATURE_TYPES`.
    """
    return pa.schema(
        [
            *_KEY,
            pa.field("id", pa.string(), nullable=False),
            _URI,
            SPLIT_COLUMNS[0],
            ("label", pa.int64()),
            pa.field("prediction", pa.int32(), nullable=False),
            pa.field("features", pa.list_(FEATURE_TYPES[dtype], width), nullable=False),
        ]
    )
