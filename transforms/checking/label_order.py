"""Whether labels follow another order of the classes than the model's outputs."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True, eq=False)
class LabelOrder:
    """The one-to-one mapping of labels to outputs under which most predictions are right.

    Attributes:
      outputs: label -> output, for labels that occur.
      accuracy: share of the labelled images that it makes right.
      by_chance: the accuracy that such a mapping reaches if labels and predictions have nothing to do with each other.
    """

    outputs: dict[int, int]
    accuracy: float
    by_chance: float

    @property
    def explains(self) -> bool:
        """Whether the accuracy is far above what the best of all mappings reaches by chance."""
        return self.accuracy > max(0.3, 1.5 * self.by_chance)


def best_order(predictions: np.ndarray, labels: np.ndarray, classes: int) -> LabelOrder:
    """Finds the mapping by the Hungarian method.

    Args:
      predictions: int [N], N >= 1, from 0 to classes - 1.
      labels: int64 [N]; those outside 0 to classes - 1 are left out.
      classes: K.
    """
    known = (labels >= 0) & (labels < classes)
    if not known.any():
        return LabelOrder({}, 0.0, 0.0)
    rng = np.random.default_rng(0)
    shuffled = np.mean([_accuracy(rng.permutation(predictions[known]), labels[known], classes)[1] for _ in range(5)])
    outputs, accuracy = _accuracy(predictions[known], labels[known], classes)
    return LabelOrder(outputs, accuracy, float(shuffled))


def _accuracy(predictions: np.ndarray, labels: np.ndarray, classes: int) -> tuple[dict[int, int], float]:
    present = np.unique(labels)
    counts = np.zeros((len(present), classes), np.int64)
    np.add.at(counts, (np.searchsorted(present, labels), predictions), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    outputs = {int(present[row]): int(column) for row, column in zip(rows, columns, strict=True)}
    return outputs, float(counts[rows, columns].sum() / len(labels))
