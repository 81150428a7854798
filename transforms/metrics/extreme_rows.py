"""The rows at either end of a ranking, and the first ones of each predicted class; pure functions."""

import heapq
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables.flags_file import FLAG_COLUMNS

# Rows of a gallery, where nothing else is asked for.
GALLERY = 12
# Columns of these rows, besides the score and those of flags.
ROW_COLUMNS = ("index", "offset", "id", "uri", "label", "prediction", "class_name", "odin_logit", "msp")


def extremes(table: pa.Table, ranked_by: str, shard: Shard, count: int = GALLERY) -> dict[str, list[tuple]]:
    """The first rows and the last ones of a ranking.

    Rows are ranked by p-value before score where the table has p-values. Those without a p-value follow the others,
    and those without a score are left out.

    Args:
      table: `ROW_COLUMNS` and the column `ranked_by` of a scores file, with or without `FLAG_COLUMNS`.
      ranked_by: column of the score.
      shard: with these rows.
      count: number of rows at each end.

    Returns:
      For each of `lowest` and `highest` a list of entries (*rank, shard path, index, row), in tuple order.
    """
    found = {}
    for end, sign in (("lowest", 1.0), ("highest", -1.0)):
        ranks = _ranks(table, ranked_by, sign)
        found[end] = _entries(table, shard, ranks, _places(ranks)[:count], sign)
    return found


def lowest_by_class(table: pa.Table, ranked_by: str, shard: Shard, count: int) -> dict[int, list[tuple]]:
    """Predicted class -> its first rows of the ranking, at most `count`, as `extremes` has them."""
    ranks = _ranks(table, ranked_by, 1.0)
    places = _places(ranks)
    predicted = table["prediction"].to_numpy()[places]
    grouped = np.argsort(predicted, kind="stable")
    classes, starts = np.unique(predicted[grouped], return_index=True)
    return {
        int(name): _entries(table, shard, ranks, places[own[:count]], 1.0)
        for name, own in zip(classes, np.split(grouped, starts[1:]), strict=True)
    }


def keep_first(groups: Iterable[list[tuple]], count: int = GALLERY) -> list[tuple]:
    """The first entries of several rankings."""
    return heapq.nsmallest(count, itertools.chain.from_iterable(groups), key=lambda entry: entry[:-1])


def row_of(entry: tuple) -> dict[str, Any]:
    """An entry's row, with `shard`."""
    *_, path, _, row = entry
    return {**row, "shard": path}


def _ranks(table: pa.Table, ranked_by: str, sign: float) -> tuple[np.ndarray, np.ndarray]:
    """float64 [N] each: p-values, 0 in a table without; and scores, NaN where there is none. Both with that sign."""
    scores = sign * table[ranked_by].to_numpy(zero_copy_only=False).astype(np.float64)
    if "p_value" not in table.column_names:
        return np.zeros(len(scores)), scores
    p_values = sign * table["p_value"].to_numpy(zero_copy_only=False).astype(np.float64)
    return np.where(np.isnan(p_values), np.inf, p_values), scores


def _places(ranks: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """int64: of the rows that have a score, in the order of the ranking."""
    p_values, scores = ranks
    # lexsort takes the last key first, and is stable.
    order = np.lexsort((scores, p_values))
    return order[~np.isnan(scores[order])]


def _entries(
    table: pa.Table, shard: Shard, ranks: tuple[np.ndarray, np.ndarray], places: np.ndarray, sign: float
) -> list[tuple]:
    columns = [*ROW_COLUMNS, *(name for name in FLAG_COLUMNS if name in table.column_names)]
    rows: list[Mapping[str, Any]] = table.take(places).select(columns).to_pylist()
    p_values, scores = ranks
    return [
        (
            float(p_values[place]),
            float(scores[place]),
            shard.path,
            row["index"],
            {**dict.fromkeys(FLAG_COLUMNS), **row, "score": sign * float(scores[place])},
        )
        for place, row in zip(places, rows, strict=True)
    ]
