"""The flags of the images that a person labelled, and what these labels say of the threshold."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables import layout
from odin_beam.transforms.tables.parquet import read_columns


@dataclass(frozen=True)
class LabelledRow:
    """An image with a label.

    Attributes:
      key: (shard, index) of its row.
      foreign: the label.
      flagged: whether it is flagged; None without a p-value.
      score: by which it is or is not; None without a score.
    """

    key: tuple[str, int]
    foreign: bool
    flagged: bool | None
    score: float | None


def labelled_rows(
    output: str, shards: Sequence[Shard], labels: Mapping[tuple[str, int], bool | None], name: str | None
) -> list[LabelledRow]:
    """The labelled images among a run's flags, in the order of shards and indexes.

    Args:
      output: the run's folder.
      shards: of the sources that the sample is of.
      labels: `Labels.answers`; images without an answer are left out, and so are those that are not among the flags.
      name: of the flags.

    Raises:
      StorageError: flags cannot be read.
    """
    wanted: dict[str, list[int]] = {}
    for (path, index), answer in labels.items():
        if answer is not None:
            wanted.setdefault(path, []).append(index)
    rows = []
    for shard in shards:
        if not (indexes := [index for index in wanted.get(shard.path, []) if shard.content.holds(index)]):
            continue
        columns = ["index", "is_ood", "score"]
        for table in read_columns(layout.flags_path(output, shard, name), columns):
            own = table.filter(pc.is_in(table["index"], pc.cast(indexes, table["index"].type)))
            for row in own.to_pylist():
                key = shard.path, row["index"]
                rows.append(LabelledRow(key, bool(labels[key]), row["is_ood"], row["score"]))
    return rows


def labels_digest(rows: Sequence[LabelledRow]) -> str:
    """SHA-256, in hex, of the labelled images and their labels."""
    text = "\n".join(f"{path}\t{index}\t{row.foreign}" for row in rows for path, index in [row.key])
    return hashlib.sha256(text.encode()).hexdigest()


def key_digest(key: tuple[str, int]) -> int:
    """63 bits that tell a row from others."""
    return int.from_bytes(hashlib.sha256(f"{key[0]}\t{key[1]}".encode()).digest()[:8], "little") >> 1


def calibration_sample(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Equally weighted scores that stand for weighted ones: as many as these are worth.

    With flagged and unflagged images sampled apart, each stands for another number of images of the archive. The
    effective number is n' = (sum w)^2 / sum w^2 (Kish 1965), and the result the n' quantiles of the weighted scores in
    the middles of n' equal parts.

    Args:
      scores: float64 [N], N >= 1.
      weights: float64 [N], above 0.

    Returns:
      float64 [n'], ascending.
    """
    order = np.argsort(scores, kind="stable")
    scores, shares = scores[order], np.cumsum(weights[order]) / weights.sum()
    count = max(1, int(weights.sum() ** 2 / np.square(weights).sum() + 1e-9))
    return scores[np.minimum(np.searchsorted(shares, (np.arange(count) + 0.5) / count), len(scores) - 1)]
