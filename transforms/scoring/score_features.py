"""From the features that a run kept to the scores of another run; no image is read, and no model.

The rows are those of the first run, in their order. Detectors that need more than features keep its scores.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from apache_beam.utils.shared import Shared

from odin_beam.transforms import __version__
from odin_beam.transforms.detectors.registry import ALL
from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.scoring.feature_scorer import ROWS_AT_ONCE, FeatureScorer
from odin_beam.transforms.scoring.rows import score_column
from odin_beam.transforms.scoring.score_shards import ScoreShard, ScoreShards
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables import run_file, scores_file
from odin_beam.transforms.tables.layout import FEATURES, SCORES, rejects_path, rows_path
from odin_beam.transforms.tables.parquet import read_columns
from odin_beam.transforms.tables.schemas import LATER_COLUMNS, REJECT_SCHEMA, features_schema


@dataclass(frozen=True)
class KeptFeatures:
    """A run that kept features beside its scores.

    Attributes:
      folder: absolute path of its folder.
      identity: its settings, as they enter the fingerprint.
    """

    folder: str
    identity: dict[str, Any]

    @property
    def dtype(self) -> str | None:
        """Type of the features, one of `schemas.FEATURE_TYPES`; None if the run kept none."""
        return self.identity.get("kept_features")

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of its settings: with a shard, it determines the features."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()


def score_features(
    shard: Shard, scorer: FeatureScorer, settings: ScoreSettings, kept: KeptFeatures, output: str
) -> scores_file.Commit:
    """Scores the features of one shard and commits the scores.

    Args:
      shard: of the run that kept them.
      scorer: of the settings.
      settings: what to compute.
      kept: the run that kept them.
      output: absolute path of the folder of this run.

    Raises:
      StorageError: scores, features or rejects of the shard are missing or damaged, or of other settings.
      OutputError: the output cannot be written.
      OutputTakenError: it belongs to a run with other settings by now.
    """
    path, expected = rows_path(kept.folder, shard, SCORES), scores_file.fingerprint(kept.identity, shard)
    earlier, identity = scores_file.check_scores(path, expected), settings.identity()
    computed = {name for name in settings.detectors if ALL[name].takes_features}
    known = [column.name for column in settings.schema if column.name not in _without_copies(settings)]
    with scores_file.ScoresWriter(output, shard, settings.schema) as writer:
        scores = scores_file.read_scores(path, expected, known)
        features_path, schema = rows_path(kept.folder, shard, FEATURES), features_schema(scorer.width, kept.dtype)
        features = scores_file.read_scores(features_path, expected, ["index", "features"], schema)
        for rows, numbers in _same_images(scores, features, features_path):
            columns = scorer.score(_array(numbers, scorer.width, features_path))
            every = np.ones(rows.num_rows, bool)
            arrays = [
                rows[column.name].combine_chunks()
                if column.name in known
                else score_column(columns.get(column.name) if column.name in computed else None, every, column.type)
                for column in settings.schema
            ]
            writer.write(pa.record_batch(arrays, schema=settings.schema), [])
        for rejects in _rejects(kept, shard, earlier):
            writer.write(pa.RecordBatch.from_pylist([], settings.schema), rejects)
        run_file.check_owner(output, identity)
        return writer.commit(scores_file.fingerprint(identity, shard), earlier.framed, earlier.head, identity)


def _without_copies(settings: ScoreSettings) -> set[str]:
    """The columns that are not copied: of detectors that are computed, and of those that were not chosen."""
    copied = {name for name in settings.detectors if not ALL[name].takes_features}
    return {column for name, row in ALL.items() if name not in copied for column, _ in row.typed_columns}


def _same_images(
    scores: Iterable[pa.Table], features: Iterable[pa.Table], path: str
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Parts of both tables, of at most `ROWS_AT_ONCE` rows, that are of the same images.

    Raises:
      StorageError: they are not.
    """
    differ = StorageError(f"{path} is damaged (it is not of the images of the scores): remove it and run `score` again")
    scores, rows = iter(scores), None
    for table in features:
        start = 0
        while start < table.num_rows:
            while rows is None or not rows.num_rows:
                if (rows := next(scores, None)) is None:
                    raise differ
            count = min(ROWS_AT_ONCE, rows.num_rows, table.num_rows - start)
            a, b = rows.slice(0, count), table.slice(start, count)
            if not a["index"].equals(b["index"]):
                raise differ
            yield a, b
            rows, start = rows.slice(count), start + count
    if any(rest.num_rows for rest in [*([] if rows is None else [rows]), *scores]):
        raise differ


def _array(table: pa.Table, width: int, path: str) -> np.ndarray:
    """The features of a table, float32 [N, D]."""
    features = table["features"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    features = features.reshape(-1, width).astype(np.float32)
    if not np.isfinite(features).all():
        raise StorageError(f"{path} is damaged (features are not finite): remove it and run `score` again")
    return features


def _rejects(kept: KeptFeatures, shard: Shard, commit: scores_file.Commit) -> Iterator[list[dict[str, Any]]]:
    """The shard's rejects, as `ScoresWriter.write` takes them."""
    if not commit.rejected:
        return
    path, found = rejects_path(kept.folder, shard), 0
    for table in read_columns(path, REJECT_SCHEMA.names, may_lack=lambda names: LATER_COLUMNS):
        found += table.num_rows
        if table.schema.types != REJECT_SCHEMA.types:
            raise StorageError(f"{path} is damaged (its columns are of other types): remove it and run `score` again")
        yield table.drop_columns(["shard"]).to_pylist()
    if found != commit.rejected:
        raise StorageError(f"{path} is damaged ({found:,} rows instead of {commit.rejected:,})")


class _ScoreShardFeatures(ScoreShard):
    def __init__(self, settings: ScoreSettings, output: str, shared: Shared, launcher_version: str, kept: KeptFeatures):
        super().__init__(settings, output, shared, launcher_version)
        self._kept = kept

    def _load(self) -> FeatureScorer:
        return FeatureScorer(self._settings, self._kept.folder)

    def _score(self, shard: Shard) -> None:
        score_features(shard, self._scorer, self._settings, self._kept, self._output)


@dataclass
class ScoreFeatures(ScoreShards):
    """The same as `ScoreShards`, from the features that a run kept.

    Args:
      kept: that run.
    """

    kept: KeptFeatures | None = None

    def step(self) -> ScoreShard:
        """What scores one shard."""
        return _ScoreShardFeatures(self.settings, self.output, self.shared, __version__, self.kept)
