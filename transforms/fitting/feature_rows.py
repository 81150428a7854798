"""Reads committed features in blocks of thousands of images, with the logits that the last layer makes of them."""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.fitting.digests import is_within, row_keys
from odin_beam.transforms.fitting.statistics_file import read_state, read_statistics, write_statistics
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.tables import scores_file
from odin_beam.transforms.tables.layout import FEATURES, last_layer_path, rows_path
from odin_beam.transforms.tables.schemas import features_schema

# Matrix products are fast at this size, and float64 copies and logits of it are of a moderate one.
_BLOCK_ROWS = 4096
_BLOCK_BYTES = 1 << 25


class LastLayerWeights(NamedTuple):
    """What makes logits of features.

    Attributes:
      kernel: float32 [D, K].
      bias: float32 [K].
    """

    kernel: np.ndarray
    bias: np.ndarray

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of both."""
        digest = hashlib.sha256(str(self.kernel.shape).encode())
        for array in self:
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


class FeatureRows(NamedTuple):
    """Some images of a fit.

    Attributes:
      features: float32 [N, D].
      logits: float64 [N, K]: in float32 the last bits would depend on which images are in a block.
      digests: uint64 [N].
      keys: uint64 [N]; see `row_keys`.
      labels: int64 [N]; -1 without one of the classifier's classes.
      predictions: int64 [N].
    """

    features: np.ndarray
    logits: np.ndarray
    digests: np.ndarray
    keys: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray

    @property
    def classes(self) -> np.ndarray:
        """int64 [N], labels, and predictions where there are none."""
        return np.where(self.labels >= 0, self.labels, self.predictions)


def write_last_layer(folder: str, weights: LastLayerWeights) -> None:
    """Stores the weights in a run's folder.

    Raises:
      OutputError: the storage refused the write.
    """
    write_statistics(last_layer_path(folder), weights.digest, weights._asdict())


@functools.lru_cache(maxsize=1)
def _last_layer(folder: str, state: str) -> LastLayerWeights:
    arrays = read_statistics(last_layer_path(folder))
    try:
        weights = LastLayerWeights(arrays["kernel"], arrays["bias"])
        good = weights.kernel.ndim == 2 and weights.bias.shape == weights.kernel.shape[1:]
        good = good and {weights.kernel.dtype, weights.bias.dtype} == {np.dtype(np.float32)}
    except KeyError:
        good = False
    if not good or weights.digest != state:
        raise StorageError(f"{last_layer_path(folder)} is damaged: remove it and run again")
    return weights


def read_last_layer(folder: str) -> LastLayerWeights:
    """The weights that `write_last_layer` stored; a process reads them once.

    Raises:
      StorageError: they are missing or damaged.
    """
    return _last_layer(folder, read_state(last_layer_path(folder)))


def read_key_columns(
    folder: str, shard: Shard, identity: dict[str, Any]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """(digests uint64, keys uint64, labels int64 with -1 for none, predictions) of a shard's images, in parts.

    Raises:
      StorageError: the file is missing or damaged, or of other settings.
    """
    path, expected = rows_path(folder, shard, FEATURES), scores_file.fingerprint(identity, shard)
    columns = ["index", "image_digest", "label", "prediction"]
    for table in scores_file.read_scores(path, expected, columns, features_schema(0)):
        yield _key_columns(shard, table)


def _key_columns(shard: Shard, table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    digests = table["image_digest"].to_numpy().view(np.uint64)
    labels = table["label"].fill_null(-1).to_numpy()
    predictions = table["prediction"].to_numpy().astype(np.int64)
    return digests, row_keys(f"{shard.source}:{shard.path}", table["index"].to_numpy()), labels, predictions


def read_feature_rows(
    folder: str,
    shards: Sequence[Shard],
    identity: dict[str, Any],
    weights: LastLayerWeights,
    limit: tuple[int, int] | None,
) -> Iterator[FeatureRows]:
    """The images of some shards that are fitted to, thousands at once.

    Args:
      folder: of the run.
      shards: in the order to read them in.
      identity: the settings in the fingerprint.
      weights: of the last layer.
      limit: the last image that is taken; see `LowestDigests.limit`.

    Raises:
      StorageError: a file is missing or damaged, or of other settings.
    """
    width, classes = weights.kernel.shape
    most = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // (4 * max(width, classes))))
    layer = [array.astype(np.float64) for array in weights]
    pending: list[list[np.ndarray]] = []
    for shard in shards:
        for columns in _taken(folder, shard, identity, weights, limit):
            for start in range(0, len(columns[0]), most):
                part = [column[start : start + most] for column in columns]
                if pending and sum(len(p[0]) for p in pending) + len(part[0]) > most:
                    yield _block(pending, *layer)
                    pending = []
                pending.append(part)
    if pending:
        yield _block(pending, *layer)


def _taken(
    folder: str, shard: Shard, identity: dict[str, Any], weights: LastLayerWeights, limit: tuple[int, int] | None
) -> Iterator[list[np.ndarray]]:
    """Columns of the images of a shard that are taken, a row group at a time: features, then the key columns."""
    path, expected = rows_path(folder, shard, FEATURES), scores_file.fingerprint(identity, shard)
    width, classes = weights.kernel.shape
    columns = ["index", "image_digest", "label", "prediction", "features"]
    for table in scores_file.read_scores(path, expected, columns, features_schema(width)):
        digests, keys, labels, predictions = _key_columns(shard, table)
        if len(predictions) and predictions.max() >= classes:
            raise StorageError(f"{path} is damaged (a prediction of {predictions.max()}): remove it and run again")
        labels = np.where((labels >= 0) & (labels < classes), labels, -1)
        chunks = [chunk.flatten().to_numpy().reshape(-1, width) for chunk in table["features"].chunks]
        features = chunks[0] if len(chunks) == 1 else np.concatenate([np.zeros((0, width), np.float32), *chunks])
        if not np.isfinite(features).all():
            raise StorageError(f"{path} is damaged (features are not finite): remove it and run again")
        found = [features, digests, keys, labels, predictions]
        if not (taken := is_within(digests, keys, limit)).all():
            found = [column[taken] for column in found]
        if len(found[0]):
            yield found


def _block(parts: list[list[np.ndarray]], kernel: np.ndarray, bias: np.ndarray) -> FeatureRows:
    features, *others = (np.concatenate(column) if len(parts) > 1 else column[0] for column in zip(*parts, strict=True))
    return FeatureRows(features, features.astype(np.float64) @ kernel + bias, *others)
