"""The committed scores of a grid, image by image: what a choice among columns is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from odin_beam.transforms.images.digest import half_of
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables import schemas, scores_file
from odin_beam.transforms.tables.layout import scores_path


@dataclass(frozen=True, eq=False)
class SourceScores:
    """The scores of N images.

    Attributes:
      columns: column -> float64 [N]; NaN where an image has no score.
      predictions: int32 [N].
      digests: int64 [N], see `images.digest`; of an image made of two, the second's.
      blocks: int64 [N]; equal for images that are made of, or are, the same original images.
    """

    columns: Mapping[str, np.ndarray]
    predictions: np.ndarray
    digests: np.ndarray
    blocks: np.ndarray

    def __len__(self) -> int:
        return len(self.predictions)

    def has_all(self, column: str) -> bool:
        """Whether every image has a score in this column."""
        return bool(np.isfinite(self.columns[column]).all())

    def histogram(self, column: str, rows: np.ndarray | slice = slice(None)) -> ScoreHistogram:
        """A column's scores, of all images or of some rows."""
        scores = self.columns[column][rows]
        return ScoreHistogram.of(scores[np.isfinite(scores)])

    def half(self, which: int) -> "SourceScores":
        """The images of one half, 0 or 1."""
        rows = half_of(self.digests) == which
        columns = {name: scores[rows] for name, scores in self.columns.items()}
        return SourceScores(columns, self.predictions[rows], self.digests[rows], self.blocks[rows])


def read_grid_scores(
    folder: str, settings: ScoreSettings, shards: Sequence[Shard], columns: Sequence[str]
) -> tuple[SourceScores, dict[str, SourceScores]]:
    """The scores of all in-distribution images, and those of every other source with at least one score.

    Args:
      folder: of the run.
      settings: of the run, with the grid.
      shards: committed, in a fixed order.
      columns: of the scores.

    Raises:
      StorageError: a scores file is missing or damaged.
    """
    parts: dict[str, list[_Rows]] = {"": []}
    places = {path: place for place, path in enumerate(dict.fromkeys(shard.path for shard in shards))}
    for shard in shards:
        rows = _read(folder, settings, shard, columns, places[shard.path])
        parts.setdefault("" if shard.role == "in_distribution" else shard.source, []).append(rows)
    pairs = np.concatenate([rows.pairs for of_source in parts.values() for rows in of_source])
    sides = {source: _joined(of_source, pairs, columns) for source, of_source in parts.items()}
    inside = sides.pop("")
    return inside, {source: scores for source, scores in sides.items() if len(scores)}


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows of a shard.

    Attributes:
      scores: float64 [columns, N].
      predictions: int32 [N].
      digests: int64 [N].
      images: int64 [N], the image, or the second of the two, that each row is made of.
      pairs: int64 [P, 2], first and second image of the rows that are made of two.
    """

    scores: np.ndarray
    predictions: np.ndarray
    digests: np.ndarray
    images: np.ndarray
    pairs: np.ndarray


def _read(folder: str, settings: ScoreSettings, shard: Shard, columns: Sequence[str], place: int) -> _Rows:
    """A shard's rows; images are numbered by their index and the place of their path."""
    expected = scores_file.fingerprint(settings.identity(), shard)
    names = ["index", "prediction", *(column.name for column in schemas.SPLIT_COLUMNS)]
    tables = scores_file.read_scores(scores_path(folder, shard), expected, [*names, *columns])
    read = [
        (
            np.stack([table[column].to_numpy(zero_copy_only=False).astype(np.float64) for column in columns]),
            table["prediction"].to_numpy(),
            table["image_digest"].to_numpy(),
            table["index"].to_numpy() + (place << 40),
            table["partner"].fill_null(-1).to_numpy(),
        )
        for table in tables
    ]
    if not read:
        return _no_rows(columns)
    scores, predictions, digests, images, partners = (
        np.concatenate(parts, axis=-1) for parts in zip(*read, strict=True)
    )
    of_two = partners >= 0
    pairs = np.stack([partners[of_two] + (place << 40), images[of_two]], axis=1)
    return _Rows(scores, predictions, digests, images, pairs)


def _no_rows(columns: Sequence[str]) -> _Rows:
    return _Rows(np.empty((len(columns), 0)), *[np.empty(0, np.int64)] * 3, np.empty((0, 2), np.int64))


def _joined(parts: Sequence[_Rows], pairs: np.ndarray, columns: Sequence[str]) -> SourceScores:
    parts = [_no_rows(columns), *parts]
    scores = np.concatenate([rows.scores for rows in parts], axis=1)
    predictions, digests, images = (
        np.concatenate([getattr(rows, name) for rows in parts]) for name in ("predictions", "digests", "images")
    )
    # A pair is a block, named after its first image.
    pairs = np.unique(pairs, axis=0)
    pairs = pairs[np.argsort(pairs[:, 1])]
    place = np.searchsorted(pairs[:, 1], images)
    place[place == len(pairs)] = 0
    blocks = images.copy()
    if len(pairs):
        seconds = pairs[place, 1] == images
        blocks[seconds] = pairs[place[seconds], 0]
    return SourceScores(dict(zip(columns, scores, strict=True)), predictions, digests, blocks)
