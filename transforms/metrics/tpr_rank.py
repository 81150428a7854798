"""The rank of the score that a true positive rate refers to, in integer arithmetic."""

import math
from fractions import Fraction


def tpr_rank(tpr: float, count: int) -> int:
    """`ceil(tpr * count)`, computed exactly: in float64, 0.55 * 100 is above 55."""
    if not 0 < tpr <= 1:
        raise ValueError(f"a true positive rate lies in (0, 1], not {tpr}")
    return math.ceil(Fraction(str(tpr)) * count)
