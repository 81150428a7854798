"""The steps from committed features to what a reference is derived from; files in, files out, no Beam.

    digests of each group -> sample -> moments of each group -> merged, and ViM's subspace -> residuals of each group

Each step leaves one file in the folder's statistics, which states what it was made from, and is skipped where there is
one that states the same: a fit that was killed goes on. The parts of a step are merged in the order of their names.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.fitting.bank import Bank
from odin_beam.transforms.fitting.clip import FeatureHistogram
from odin_beam.transforms.fitting.digests import LowestDigests
from odin_beam.transforms.fitting.feature_rows import read_feature_rows, read_key_columns, read_last_layer
from odin_beam.transforms.fitting.moments import Moments
from odin_beam.transforms.fitting.residual import Subspace, vim_residual_sum, vim_subspace
from odin_beam.transforms.fitting.statistics_file import (
    as_part,
    has_state,
    of_part,
    read_state,
    read_statistics,
    state_of,
    write_statistics,
)
from odin_beam.transforms.metrics.counts import Counts, add_up
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import paths
from odin_beam.transforms.tables import layout, scores_file

MAX_GROUPS = 64
# Raised when a step computes something else of the same features.
_VERSION = 1


@dataclass(frozen=True)
class FitSteps:
    """What all steps need.

    Attributes:
      folder: absolute path of the fit's run.
      identity: of the features, in their fingerprints.
      bank: number of images in the bank.
      sample: largest number of images to fit to.
      groups: of files, at most `MAX_GROUPS`.
    """

    folder: str
    identity: dict[str, Any]
    bank: int
    sample: int
    groups: int

    def group_of(self, shard: Shard) -> int:
        """The group that a shard's file belongs to, by its name."""
        name = hashlib.sha256(f"{shard.source}/{shard.file_name}".encode()).digest()
        return int.from_bytes(name[:8], "little") % self.groups

    def read_digests(self, group: int, shards: Sequence[Shard]) -> str:
        """The lowest digests of a group's images, and counts by source; returns the file's path.

        Raises:
          StorageError: a file of features is missing or damaged, or of other settings.
        """
        path, state = self._path("digests", group), self._state(shards, "digests", self.sample)
        if has_state(path, state):
            return path
        lowest, counts = LowestDigests(self.sample), {}
        for shard in shards:
            # A shard that reads well is counted; this one may be damaged at its end.
            counted, parts = self._counted(shard)
            counts[shard.source] = add_up(Counts, [counts.get(shard.source, Counts()), counted])
            for digests, keys in parts:
                lowest.add(digests, keys)
        digests, keys = lowest.lowest()
        told = json.dumps({source: asdict(counted) for source, counted in counts.items()})
        arrays = {"digests": digests, "keys": keys, "count": np.array(lowest.count), "counts": _text(told)}
        write_statistics(path, state, arrays)
        return path

    def _counted(self, shard: Shard) -> tuple[Counts, list[tuple[np.ndarray, np.ndarray]]]:
        expected = scores_file.fingerprint(self.identity, shard)
        commit = scores_file.check_scores(layout.rows_path(self.folder, shard, layout.FEATURES), expected)
        parts, labelled, correct = [], 0, 0
        for digests, keys, labels, predictions in read_key_columns(self.folder, shard, self.identity):
            parts.append((digests, keys))
            labelled += int(np.sum(labels >= 0))
            correct += int(np.sum(labels == predictions))
        return Counts(1, commit.framed, commit.scored, commit.rejected, labelled, correct), parts

    def choose_sample(self, parts: Sequence[str]) -> str | None:
        """Which images are fitted to; returns the file's path, or None where there are no images."""
        path, state = self._path("sample"), state_of("sample", [read_state(part) for part in sorted(parts)])
        if not has_state(path, state):
            lowest = LowestDigests(self.sample)
            for part in sorted(parts):
                arrays = read_statistics(part)
                lowest.add(arrays["digests"], arrays["keys"], int(arrays["count"]))
            if not lowest.count:
                return None
            digests, limit = lowest.lowest()[0], lowest.limit()
            arrays = {"digests": np.sort(digests.view(np.int64)), "limit": np.array(limit or (), np.uint64)}
            write_statistics(path, state, arrays)
        return path

    def read_moments(self, group: int, shards: Sequence[Shard], sample: str) -> str:
        """Partial sums of a group's images; returns the file's path.

        Raises:
          StorageError: as in `read_digests`.
        """
        weights, limit = read_last_layer(self.folder), _limit(sample)
        path, state = self._path("moments", group), self._state(shards, "moments", limit, self.bank, weights.digest)
        if has_state(path, state):
            return path
        width, classes = weights.kernel.shape
        sums = PartialSums(classes, width, self.bank)
        for rows in read_feature_rows(self.folder, shards, self.identity, weights, limit):
            sums.moments.add(rows.features, rows.logits, rows.classes, rows.predictions)
            sums.histogram.add(rows.features)
            sums.bank.add(rows.features, _energies(rows.logits), rows.classes, rows.digests, rows.keys)
            sums.add_classes(rows.labels, rows.classes, rows.predictions)
        sums.write(path, state)
        return path

    def merge_moments(self, parts: Sequence[str]) -> str:
        """The sums of all groups, and ViM's subspace; returns the path of the subspace's file."""
        path, merged = self._path("subspace"), self._path("merged")
        state = state_of("merged", [read_state(part) for part in sorted(parts)])
        if has_state(path, state) and has_state(merged, state):
            return path
        sums = None
        for part in sorted(parts):
            more = PartialSums.read(part)
            sums = more if sums is None else sums.merged(more)
            del more
        sums.write(merged, state)
        subspace = vim_subspace(sums.moments, *read_last_layer(self.folder))
        write_statistics(path, state, {} if subspace is None else subspace._asdict())
        return path

    def read_residuals(self, group: int, shards: Sequence[Shard], sample: str, subspace: str) -> str:
        """The sum of a group's residuals; returns the file's path.

        Raises:
          StorageError: as in `read_digests`.
        """
        path, state = self._path("residuals", group), self._state(shards, "residuals", read_state(subspace))
        if has_state(path, state):
            return path
        total, space = 0.0, read_subspace(subspace)
        if space is not None:
            weights = read_last_layer(self.folder)
            for rows in read_feature_rows(self.folder, shards, self.identity, weights, _limit(sample)):
                total += vim_residual_sum(rows.features, *space)
        write_statistics(path, state, {"sum": np.array(total)})
        return path

    def merged(self) -> "PartialSums":
        """The sums that `merge_moments` left."""
        return PartialSums.read(self._path("merged"))

    def fitted_digests(self) -> np.ndarray:
        """int64 [N], ascending, of the images that `choose_sample` took."""
        return read_statistics(self._path("sample"))["digests"]

    def _path(self, step: str, group: int | None = None) -> str:
        name = step if group is None else f"{step}-{group:02d}-of-{self.groups:02d}"
        return paths.join(layout.statistics_folder(self.folder), f"{name}.npz")

    def _state(self, shards: Sequence[Shard], *parts: Any) -> str:
        files = [[shard.source, scores_file.fingerprint(self.identity, shard)] for shard in shards]
        return state_of(_VERSION, files, *parts)


class PartialSums:
    """The sums of some images of a fit.

    Args:
      classes: K.
      width: D.
      bank: number of images in the bank.

    Attributes:
      moments: of the features.
      histogram: of the features.
      bank: of the features.
      by_class: int64 [3, K]: images, those with a label, those whose label is predicted.
    """

    def __init__(self, classes: int, width: int, bank: int):
        self.moments, self.histogram = Moments(classes, width), FeatureHistogram()
        self.bank = Bank(classes, width, bank)
        self.by_class = np.zeros((3, classes), np.int64)

    def add_classes(self, labels: np.ndarray, classes: np.ndarray, predictions: np.ndarray) -> None:
        """Counts images: labels, -1 for none, classes and predictions, int [N]."""
        for row, taken in enumerate((slice(None), labels >= 0, labels == predictions)):
            self.by_class[row] += np.bincount(classes[taken], minlength=self.by_class.shape[1])

    def merged(self, other: "PartialSums") -> "PartialSums":
        """Adds the images of the other, and returns itself."""
        self.moments.merge(other.moments)
        self.histogram.merge(other.histogram)
        self.bank.merge(other.bank)
        self.by_class += other.by_class
        return self

    def write(self, path: str, state: str) -> None:
        """Writes a file for `read`; see `write_statistics`."""
        arrays = {"by_class": self.by_class}
        for name in _PARTS:
            arrays |= as_part(getattr(self, name).to_arrays(), name)
        write_statistics(path, state, arrays)

    @classmethod
    def read(cls, path: str) -> "PartialSums":
        """The sums that `write` wrote.

        Raises:
          StorageError: the file is missing or damaged.
        """
        arrays, sums = read_statistics(path), cls.__new__(cls)
        try:
            for name, kind in _PARTS.items():
                setattr(sums, name, kind.from_arrays(of_part(arrays, name)))
            sums.by_class = arrays["by_class"]
            if sums.by_class.shape != (3, sums.moments.classes):
                raise ValueError("images by class differ")
        except (KeyError, ValueError) as e:
            raise StorageError(f"{path} is damaged ({e}): remove it and run again") from e
        return sums


_PARTS = {"moments": Moments, "histogram": FeatureHistogram, "bank": Bank}


def read_counts(parts: Sequence[str]) -> dict[str, Counts]:
    """Counts by source, of the files that `FitSteps.read_digests` wrote."""
    counts: dict[str, Counts] = {}
    for part in parts:
        told = json.loads(read_statistics(part)["counts"].tobytes())
        for source, counted in told.items():
            counts[source] = add_up(Counts, [counts.get(source, Counts()), Counts(**counted)])
    return counts


def read_subspace(path: str) -> Subspace | None:
    """ViM's subspace, if the images are enough for one."""
    arrays = read_statistics(path)
    return Subspace(arrays["origin"], arrays["basis"]) if arrays else None


def read_residual_sum(parts: Sequence[str]) -> float:
    """The sum of all residuals."""
    return sum(float(read_statistics(part)["sum"]) for part in sorted(parts))


def _limit(sample: str) -> tuple[int, int] | None:
    limit = [int(number) for number in read_statistics(sample)["limit"]]
    return (limit[0], limit[1]) if limit else None


def _energies(logits: np.ndarray) -> np.ndarray:
    """The logarithm of the sum of exponentials, float32 [N]."""
    largest = logits.max(axis=1, keepdims=True)
    return (largest[:, 0] + np.log(np.exp(logits - largest).sum(axis=1))).astype(np.float32)


def _text(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)
