"""The first rows of a table by a ranking, or by chance; pure functions.

A random sample takes the rows with the lowest keys, a hash of shard and index: the same at every run, whatever the
order of reading, and a larger sample contains the smaller one, so that labels given to it stay of use.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables.flags_file import FLAG_COLUMNS

LOWEST, HIGHEST, RANDOM = "lowest", "highest", "random"
ROW_COLUMNS = ("index", "offset", "id", "uri", "label", "prediction", "class_name")


@dataclass(frozen=True)
class Ranking:
    """Which rows are wanted.

    Attributes:
      detector: column of the scores; rows without a score are not wanted.
      order: `LOWEST`, `HIGHEST` or `RANDOM`.
      count: number of rows; of a random sample, one half of them flagged and the other not, as far as there are.
      sources: those wanted.
      prediction: the only predicted class wanted; None for all.
      flagged: whether there are flags, so that rows are ordered by p-value before score.
      salt: of the random order: samples of different salts are independent.
    """

    detector: str
    order: str
    count: int
    sources: tuple[str, ...]
    prediction: int | None = None
    flagged: bool = False
    salt: str = ""


def first_rows(ranking: Ranking, scores: pa.Table, flags: pa.Table | None, shard: Shard) -> dict[str, list[tuple]]:
    """The rows of a table that may be among the first of all.

    Args:
      ranking: which rows are wanted.
      scores: `ROW_COLUMNS` and the detector's column of a shard.
      flags: `FLAG_COLUMNS` of the same rows; None without flags.
      shard: with these rows.

    Returns:
      Stratum -> up to `count` entries (*rank, shard path, index, row), in order. Strata of a random sample are
      `flagged` and `unflagged`; else there is one, named as the order.
    """
    values = scores[ranking.detector].to_numpy(zero_copy_only=False).astype(np.float64)
    wanted = ~np.isnan(values)
    if ranking.prediction is not None:
        wanted &= scores["prediction"].to_numpy() == ranking.prediction
    p_values = None if flags is None else flags["p_value"].to_numpy(zero_copy_only=False).astype(np.float64)
    if ranking.order == RANDOM:
        # An image of a class without calibration is neither.
        flagged, unflagged = (
            pc.fill_null(column, False).to_numpy() for column in (flags["is_ood"], pc.invert(flags["is_ood"]))
        )
        keys = (random_keys(shard, scores["index"].to_numpy(), ranking.salt),)
        strata = {"flagged": wanted & flagged, "unflagged": wanted & unflagged}
    else:
        sign = -1.0 if ranking.order == HIGHEST else 1.0
        # Images without a p-value, whose class has no calibration, are ranked after all others.
        ranks = [] if p_values is None else [np.where(np.isnan(p_values), np.inf, sign * p_values)]
        keys, strata = (*ranks, sign * values), {ranking.order: wanted}
    found = {}
    for name, rows in strata.items():
        places = np.flatnonzero(rows)
        first = places[np.lexsort([key[places] for key in reversed(keys)])[: ranking.count]]
        found[name] = [
            (*(key[place].item() for key in keys), shard.path, row["index"], row)
            for place, row in zip(first, _rows(ranking, scores, flags, shard, first), strict=True)
        ]
    return found


def _rows(
    ranking: Ranking, scores: pa.Table, flags: pa.Table | None, shard: Shard, places: np.ndarray
) -> list[dict[str, Any]]:
    """Rows as dictionaries, with `source`, `shard`, `score`, and `p_value` and `is_ood`, None without flags."""
    rows = scores.select(ROW_COLUMNS).take(places).to_pylist()
    values = scores[ranking.detector].take(places).to_pylist()
    judged = [dict.fromkeys(FLAG_COLUMNS)] * len(rows) if flags is None else flags.take(places).to_pylist()
    return [
        {
            "source": shard.source,
            "shard": shard.path,
            **row,
            "score": value,
            **{name: own[name] for name in FLAG_COLUMNS},
        }
        for row, value, own in zip(rows, values, judged, strict=True)
    ]


def random_keys(shard: Shard, indexes: np.ndarray, salt: str = "") -> np.ndarray:
    """uint64 [N], uniform and independent of what the images are: SplitMix64 (Steele et al. 2014) of a shard's indexes.

    Args:
      shard: whose source and file name seed it.
      indexes: int64 [N], distinct.
      salt: for another order.
    """
    seed = int.from_bytes(hashlib.sha256(f"{salt}/{shard.source}/{shard.file_name}".encode()).digest()[:8], "little")
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + (indexes.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def merged(ranking: Ranking, strata: dict[str, list[tuple]]) -> list[dict[str, Any]]:
    """The wanted rows of all strata, in order.

    Of a random sample one half is flagged and the other not; where one has too few, the other is not enlarged, since a
    larger sample must contain a smaller one.
    """
    if ranking.order != RANDOM:
        return [entry[-1] for entry in strata.get(ranking.order, [])]
    halves = {"flagged": ranking.count // 2, "unflagged": ranking.count - ranking.count // 2}
    # Shuffled together, so that a person who labels them does not know which was flagged.
    entries = sorted(
        (entry for name, half in halves.items() for entry in strata.get(name, [])[:half]), key=lambda entry: entry[:-1]
    )
    return [entry[-1] for entry in entries]
