"""All detectors, one row each. Imports no TensorFlow.

A new detector is a function in this folder and a row here: the columns of the scores, the choices of the flags, the
titles of the figures and the table in docs/detectors.md are derived from it.

    >>> odin_beam.DETECTORS[:3]
    ('odin', 'msp', 'max_logit')
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odin_beam.transforms.detectors.reference_tensors import ReferenceTensors
    from odin_beam.transforms.model.activations import Activations


# Fields of `Activations` that follow from features and the weights of the last layer.
_FROM_FEATURES = frozenset(("logits", "features", "kernel", "bias"))


@dataclass(frozen=True)
class Detector:
    """One detector. High = in-distribution for all of them.

    Attributes:
      name: of its column, and on the command line.
      function: module of this folder and function, `module.function`, from `needs` to float64 [N]; empty for ODIN,
        which needs additional passes.
      formula: what it computes, for the table in the docs; `f` logits, `p` softmax, `h` features of the last layer.
      source: the paper.
      needs: the fields of `Activations` that it takes, in order.
      state: the fields of `Reference` that it takes after them, in order; empty for a detector that is not fitted.
      leaves_out: whether the function also takes `left_out`, the class that the logits of `leave_class_out` lack: it
        uses more than these logits.
      true_logits: whether adding a constant to all logits of an image changes it, so that log-probabilities do not do.
      columns: the Parquet columns and their types, unless it has one float32 column of its name.
      histogram: title of its histogram in the report, which shows the last of its columns; None for no histogram.
    """

    name: str
    function: str
    formula: str
    source: str = ""
    needs: tuple[str, ...] = ("logits",)
    state: tuple[str, ...] = ()
    leaves_out: bool = False
    true_logits: bool = False
    columns: tuple[tuple[str, str], ...] = ()
    histogram: str | None = None

    @property
    def typed_columns(self) -> tuple[tuple[str, str], ...]:
        """(name, Arrow type) of its Parquet columns, which include one with the detector's name."""
        return self.columns or ((self.name, "float32"),)

    @property
    def takes_features(self) -> bool:
        """Whether the features and the weights of the last layer are all that it needs of an image and its model."""
        return bool(self.function) and _FROM_FEATURES.issuperset(self.needs)

    def __call__(self, activations: "Activations", reference: "ReferenceTensors | None" = None) -> Any:
        """The scores of a batch, float64 [N]; NaN for an image for which the detector is not defined.

        Args:
          activations: of the clean forward pass.
          reference: for a detector with a `state`, and not one of those in `Reference.unavailable`.
        """
        taken = [getattr(activations, name) for name in self.needs]
        lacking = self.leaves_out and activations.left_out is not None
        more = {"left_out": activations.left_out} if lacking else {}
        return self._score()(*taken, *(getattr(reference, name) for name in self.state), **more)

    def _score(self) -> Callable[..., Any]:
        module, _, function = self.function.partition(".")
        return getattr(importlib.import_module(f"odin_beam.transforms.detectors.{module}"), function)


_ROWS = (
    Detector(
        "odin",
        "",
        "largest softmax probability at temperature T, of the image moved by epsilon towards its predicted class",
        "Liang et al. 2018",
        needs=(),
        # A histogram of the score itself would be a single bar at T = 1000.
        columns=(("odin", "float64"), ("odin_logit", "float64")),
        histogram="ODIN score, T (log S + log K)",
    ),
    Detector(
        "msp",
        "logits.msp",
        "largest softmax probability: the baseline",
        "Hendrycks and Gimpel 2017",
        columns=(("msp", "float64"),),
        histogram="maximum softmax probability",
    ),
    Detector("max_logit", "logits.max_logit", "largest logit", "Hendrycks et al. 2022", true_logits=True),
    Detector(
        "energy",
        "logits.energy",
        "log sum exp f",
        "Liu et al. 2020",
        true_logits=True,
        histogram="negative free energy",
    ),
    Detector("neg_entropy", "logits.neg_entropy", "sum p log p"),
    Detector("margin", "logits.margin", "difference of the two largest p"),
    Detector(
        "gen",
        "logits.gen",
        "minus the sum of p^0.1 (1 - p)^0.1 over the 100 largest p",
        "Liu, Lochman and Zach 2023 (GEN)",
    ),
    Detector(
        "grad_norm",
        "features.grad_norm",
        "sum \\|h\\| times sum \\|p - 1/K\\|, the L1 norm of a gradient in closed form",
        "Huang, Geng and Li 2021 (GradNorm)",
        needs=("logits", "features"),
    ),
    Detector(
        "cam_var",
        "features.cam_var",
        "variance over the pixels of the predicted class's activation map, sum_k w[k, c] A[y, x, k]",
        'ODIN_keras_version, whose "var" was the standard deviation: the same order',
        needs=("logits", "maps", "kernel"),
    ),
    Detector(
        "cam_max",
        "features.cam_max",
        "maximum of that map",
        "ODIN_keras_version",
        needs=("logits", "maps", "kernel"),
    ),
    Detector(
        "scale",
        "shaping.scale",
        "log sum exp of the logits of h exp(r), r = sum h / sum of the 15 % largest h; null where an h is negative",
        "Xu et al. 2024 (SCALE)",
        needs=("features", "kernel", "bias"),
        leaves_out=True,
        true_logits=True,
    ),
    Detector(
        "ash_b",
        "shaping.ash_b",
        "log sum exp of the logits of a: the 10 % largest h share sum h equally, the others are 0; null where an h is "
        "negative",
        "Djurisic et al. 2023 (ASH-B)",
        needs=("features", "kernel", "bias"),
        leaves_out=True,
        true_logits=True,
    ),
)
_FITTED_ROWS = (
    Detector(
        "react",
        "shaping.react",
        "log sum exp of the logits of min(h, c), c the 90th percentile of the reference's features; null where an h is "
        "negative",
        "Sun, Guo and Li 2021 (ReAct)",
        needs=("features", "kernel", "bias"),
        state=("clip",),
        leaves_out=True,
        true_logits=True,
    ),
    Detector(
        "mds",
        "distances.mds",
        "minus the squared Mahalanobis distance of h to the nearest class mean",
        "Lee et al. 2018",
        needs=("features",),
        state=("distances",),
        leaves_out=True,
    ),
    Detector(
        "rmds",
        "distances.rmds",
        "mds plus the squared Mahalanobis distance to the overall mean under the total covariance",
        "Ren et al. 2021",
        needs=("features",),
        state=("distances",),
        leaves_out=True,
    ),
    Detector(
        "mds_unit",
        "distances.mds_unit",
        "mds of h / \\|h\\|",
        "Mueller and Hein 2025 (MDS++)",
        needs=("features",),
        state=("unit_distances",),
        leaves_out=True,
    ),
    Detector(
        "rmds_unit",
        "distances.rmds_unit",
        "rmds of h / \\|h\\|",
        "Mueller and Hein 2025 (RMDS++)",
        needs=("features",),
        state=("unit_distances",),
        leaves_out=True,
    ),
    Detector(
        "gen_mds_unit",
        "combined.gen_mds_unit",
        "the lower of gen and mds_unit, each in deviations from its mean over the bank",
        "this project; a union of tests as in Magesh et al. 2023",
        needs=("logits", "features"),
        state=("unit_distances", "standards"),
        leaves_out=True,
    ),
    Detector(
        "vim",
        "directions.vim",
        "energy minus alpha times the norm of h outside the principal subspace of the reference's features",
        "Wang et al. 2022 (ViM)",
        needs=("logits", "features"),
        state=("residual",),
        true_logits=True,
    ),
    Detector(
        "knn",
        "neighbours.knn",
        "minus the squared distance of h / \\|h\\| to its k-th neighbour in the bank",
        "Sun et al. 2022 (KNN)",
        needs=("features",),
        state=("bank", "bank_labels", "knn_k"),
        leaves_out=True,
    ),
    Detector(
        "nnguide",
        "neighbours.nnguide",
        "energy times the mean of the k largest products of cosine and energy over the bank; null where energy <= 0",
        "Park, Jung and Teoh 2023 (NNGuide)",
        needs=("logits", "features"),
        state=("bank", "bank_labels", "bank_energies", "nnguide_k"),
        leaves_out=True,
        true_logits=True,
    ),
    Detector(
        "fdbd",
        "directions.fdbd",
        "sum of the distances of h to the decision boundaries of the predicted class, over \\|h - m\\|",
        "Liu and Qin 2024 (fDBD)",
        needs=("logits", "features", "kernel"),
        state=("mean",),
        leaves_out=True,
    ),
    Detector(
        "nci",
        "directions.nci",
        "w_c'(h - m) / \\|h - m\\| + 1e-4 sum \\|h\\|",
        "Liu and Qin 2025 (NCI)",
        needs=("logits", "features", "kernel"),
        state=("mean",),
    ),
    Detector(
        "she",
        "directions.she",
        "inner product of h with the mean h of the correctly classified images of the predicted class",
        "Zhang et al. 2023 (SHE)",
        needs=("logits", "features"),
        state=("she_means", "she_counts"),
    ),
)
# In the order of the columns.
ALL = {row.name: row for row in (*_ROWS, *_FITTED_ROWS)}
# Names of the detectors that need a model only.
DETECTORS = tuple(row.name for row in _ROWS)
# Those of them that need only the clean forward pass.
CLEAN_DETECTORS = {row.name: row for row in _ROWS if row.function}
# Those that version 0.1.0 had, and computed by default: its unfinished runs go on with them, and its files have no
# columns of others.
FIRST_DETECTORS = tuple(name for name in DETECTORS if name not in ("scale", "ash_b"))
# Detectors that need the clean forward pass and a reference, which `transforms.fitting` makes.
FITTED_DETECTORS = {row.name: row for row in _FITTED_ROWS}
# The one that images are ranked by unless something is known, with a reference and without one; see `choose_detector`.
DEFAULTS = ("gen_mds_unit", "gen")
# Column -> title.
HISTOGRAMS = {row.typed_columns[-1][0]: row.histogram for row in ALL.values() if row.histogram}

_NEEDS = {
    "features": "a dense last layer",
    "maps": "global average pooling, then a dense layer",
}


def docs_table() -> str:
    """The rows as a Markdown table."""
    lines = ["| detector | what it is | source | needs |", "|---|---|---|---|"]
    for row in ALL.values():
        needs = [text for name, text in _NEEDS.items() if name in row.needs]
        needs += ["true logits"] if row.true_logits else []
        needs += [] if row.function else ["a gradient, where epsilon is above 0"]
        needs += ["a reference"] if row.state else []
        lines.append(f"| `{row.name}` | {row.formula} | {row.source} | {'; '.join(needs)} |")
    return "\n".join(lines)
