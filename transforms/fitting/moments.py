"""Mergeable moments of features by class: counts, means and the pooled within-class scatter, in float64.

    moments = Moments(classes=10, width=342)
    moments.add(features, logits, labels, predictions)
    moments.merge(other)

The mean and covariance of all features follow from these, and so do the second moments about any point. Batches and
parts are combined as by Chan, Golub and LeVeque (1983), class by class, so nothing cancels, however far the features
lie from 0. The order of additions and merges changes results by rounding errors only.
"""

from collections.abc import Mapping
from typing import Self

import numpy as np

from odin_beam.transforms import limits


class ClassMeans:
    """Counts and means by class.

    Attributes:
      counts: int64 [K].
      means: float64 [K, D]; 0 for a class without rows.
    """

    def __init__(self, classes: int, width: int):
        self.counts = np.zeros(classes, np.int64)
        self.means = np.zeros((classes, width))

    def combine(self, present: np.ndarray, counts: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Takes in the counts [P] and means [P, D] of other rows of the classes `present` [P].

        Returns:
          float64 [P, D], whose product with itself is the scatter between the two sets of rows.
        """
        before = self.counts[present]
        total = before + counts
        deltas = means - self.means[present]
        self.means[present] += deltas * (counts / total)[:, None]
        self.counts[present] = total
        return deltas * np.sqrt(before * (counts / total))[:, None]

    def add(self, rows: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Adds float64 rows [N, D] of classes [N].

        Returns:
          The rows minus the mean of their class in this batch [N, D], and the result of `combine`.
        """
        present, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
        order = np.argsort(inverse, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        if len(rows) == 0:
            return rows, rows
        # Sums of differences from a row of the class: sums of the rows themselves would round more.
        pivots = rows[order[starts]]
        centred = rows - pivots[inverse]
        means = np.add.reduceat(centred[order], starts, axis=0) / counts[:, None]
        centred -= means[inverse]
        return centred, self.combine(present, counts, pivots + means)

    def merge(self, other: "ClassMeans") -> np.ndarray:
        """Adds the rows of another; returns the result of `combine`."""
        present = np.flatnonzero(other.counts)
        return self.combine(present, other.counts[present], other.means[present])

    @property
    def mean(self) -> np.ndarray:
        """Mean of all rows, float64 [D]."""
        shares = self.counts / max(1, self.counts.sum())
        # The mean of class means about one of them: a sum of large equal numbers would round.
        pivot = self.means[int(np.argmax(self.counts))]
        return pivot + shares @ np.where(self.counts[:, None] > 0, self.means - pivot, 0)


class ClassScatter(ClassMeans):
    """Counts, means, and the pooled scatter about the class means.

    Attributes:
      scatter: float64 [D, D], the sum of (h - m_c)(h - m_c)' over all rows.
    """

    def __init__(self, classes: int, width: int):
        super().__init__(classes, width)
        self.scatter = np.zeros((width, width))

    def add(self, rows: np.ndarray, labels: np.ndarray) -> None:
        """Adds float64 rows [N, D] of classes [N]."""
        parts = np.concatenate(super().add(rows, labels))
        self.scatter += parts.T @ parts

    def merge(self, other: "ClassScatter") -> None:
        """Adds the rows of another."""
        between = super().merge(other)
        self.scatter += other.scatter
        self.scatter += between.T @ between

    @property
    def within(self) -> np.ndarray:
        """Within-class covariance, float64 [D, D], over n as in scikit-learn's EmpiricalCovariance."""
        return self.scatter / max(1, self.counts.sum())

    @property
    def total(self) -> np.ndarray:
        """Covariance of all rows, float64 [D, D], over n: within plus between classes."""
        away = np.sqrt(self.counts / max(1, self.counts.sum()))[:, None] * (self.means - self.mean)
        return self.within + away.T @ away


class Moments:
    """Everything but quantiles and the bank that a reference is derived from.

    Args:
      classes: K, of the classifier.
      width: D, of the features.

    Attributes:
      features: of the features; of one class without `with_classes`; without a scatter where D is too large.
      unit: the same of h / |h|, without the rows of h = 0.
      correct: of the features of images whose prediction is their label.
      max_logit_sum: sum of the largest logits.
      with_classes: whether statistics of classes are kept; they are not where K D is above `limits.MAX_CLASS_MEANS`.
      with_scatter: whether scatters are kept; they are not where D is above `limits.MAX_SCATTER_WIDTH`.
    """

    def __init__(self, classes: int, width: int):
        self.classes, self.width = classes, width
        self.with_classes = classes * width <= limits.MAX_CLASS_MEANS
        self.with_scatter = width <= limits.MAX_SCATTER_WIDTH
        kept, kind = classes if self.with_classes else 1, ClassScatter if self.with_scatter else ClassMeans
        self.features, self.unit = kind(kept, width), kind(kept, width)
        self.correct = ClassMeans(kept, width)
        self.max_logit_sum = 0.0

    @property
    def count(self) -> int:
        """Number of images."""
        return int(self.features.counts.sum())

    def add(self, features: np.ndarray, logits: np.ndarray, labels: np.ndarray, predictions: np.ndarray) -> None:
        """Adds a batch; thousands of images at once are faster than a few.

        Args:
          features: float32 [N, D], N >= 0.
          logits: float [N, K].
          labels: int [N], 0 to K - 1: true classes, or predictions where there are none.
          predictions: int [N].

        Raises:
          ValueError: of another shape, a class that does not exist, or a feature or logit that is not finite; nothing
            was added.
        """
        rows, labels, predictions = np.asarray(features, np.float64), np.asarray(labels), np.asarray(predictions)
        if rows.shape[1:] != (self.width,) or np.shape(logits) != (len(rows), self.classes):
            raise ValueError(
                f"features {rows.shape} and logits {np.shape(logits)} are not of {self.width} features and "
                f"{self.classes} classes"
            )
        if labels.shape != (len(rows),) or np.any((labels < 0) | (labels >= self.classes)):
            raise ValueError(f"labels must be {len(rows)} classes from 0 to {self.classes - 1}")
        if not (np.isfinite(rows).all() and np.isfinite(logits).all()):
            raise ValueError("features or logits are NaN or infinite")
        correct = labels == predictions
        if not self.with_classes:
            labels = np.zeros_like(labels)
        self.features.add(rows, labels)
        self.correct.add(rows[correct], labels[correct])
        largest = np.abs(rows).max(axis=1, initial=0)
        rows, labels = rows[largest > 0], labels[largest > 0]
        rows /= largest[largest > 0, None]
        rows /= np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
        self.unit.add(rows, labels)
        self.max_logit_sum += float(np.max(logits, axis=1, initial=-np.inf).sum(dtype=np.float64)) if len(logits) else 0

    def merge(self, other: "Moments") -> None:
        """Adds the images of another; the other is not changed.

        Raises:
          ValueError: of other classes or another width; nothing was merged.
        """
        if (other.classes, other.width) != (self.classes, self.width):
            raise ValueError(
                f"cannot merge moments of {other.classes} classes and {other.width} features with those of "
                f"{self.classes} and {self.width}"
            )
        for name in _PARTS:
            getattr(self, name).merge(getattr(other, name))
        self.max_logit_sum += other.max_logit_sum

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The state as arrays for an `.npz` file."""
        arrays = {"classes": np.array(self.classes), "max_logit_sum": np.array(self.max_logit_sum)}
        for name in _PARTS:
            arrays |= {f"{name}_{field}": array for field, array in vars(getattr(self, name)).items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The moments that `to_arrays` wrote.

        Raises:
          ValueError: an array is missing, or of another shape or type than the others imply.
        """
        expected = None
        try:
            expected = cls(int(arrays["classes"]), arrays["correct_means"].shape[1])
            template = expected.to_arrays()
            for name, array in template.items():
                if (arrays[name].shape, arrays[name].dtype) != (array.shape, array.dtype):
                    raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}")
        except (KeyError, IndexError, TypeError, ValueError) as e:
            raise ValueError(f"not moments of features: {e}") from None
        for name in _PARTS:
            part = getattr(expected, name)
            for field in vars(part):
                setattr(part, field, np.array(arrays[f"{name}_{field}"]))
        expected.max_logit_sum = float(arrays["max_logit_sum"])
        return expected


_PARTS = ("features", "unit", "correct")
