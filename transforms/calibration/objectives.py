"""What `tune` can look for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Objective:
    """What a cell is judged by.

    Attributes:
      higher_is_better: else lower is.
      two_sided: whether it compares in-distribution with other images.
    """

    higher_is_better: bool
    two_sided: bool


OBJECTIVES = {
    "fpr_at_95_tpr": Objective(higher_is_better=False, two_sided=True),
    "auroc": Objective(higher_is_better=True, two_sided=True),
    # Generalized ODIN (Hsu et al. 2020, https://arxiv.org/abs/2002.11297), for epsilon alone.
    "mean_score": Objective(higher_is_better=True, two_sided=False),
}
