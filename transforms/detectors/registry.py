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
    from odin_beam.transforms.model.activations import Activations


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
      true_logits: whether adding a constant to all logits of an image changes it, so that log-probabilities do not do.
      columns: the Parquet columns and their types, unless it has one float32 column of its name.
      histogram: title of its histogram in the report, which shows the last of its columns; None for no histogram.
    """

    name: str
    function: str
    formula: str
    source: str = ""
    needs: tuple[str, ...] = ("logits",)
    true_logits: bool = False
    columns: tuple[tuple[str, str], ...] = ()
    histogram: str | None = None

    @property
    def typed_columns(self) -> tuple[tuple[str, str], ...]:
        """(name, Arrow type) of its Parquet columns, which include one with the detector's name."""
        return self.columns or ((self.name, "float32"),)

    def __call__(self, activations: "Activations") -> Any:
        """The scores of a batch, float64 [N]."""
        return self._score()(*(getattr(activations, name) for name in self.needs))

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
)
ALL = {row.name: row for row in _ROWS}
# Names, in the order of the columns.
DETECTORS = tuple(ALL)
# Detectors that need only the clean forward pass.
CLEAN_DETECTORS = {name: row for name, row in ALL.items() if row.function}
# Column -> title.
HISTOGRAMS = {row.typed_columns[-1][0]: row.histogram for row in _ROWS if row.histogram}

_NEEDS = {
    "features": "a dense last layer",
    "maps": "global average pooling, then a dense layer",
}


def docs_table() -> str:
    """The rows as a Markdown table."""
    lines = ["| detector | what it is | source | needs |", "|---|---|---|---|"]
    for row in _ROWS:
        needs = [text for name, text in _NEEDS.items() if name in row.needs]
        needs += ["true logits"] if row.true_logits else []
        needs += [] if row.function else ["a gradient, where epsilon is above 0"]
        lines.append(f"| `{row.name}` | {row.formula} | {row.source} | {'; '.join(needs)} |")
    return "\n".join(lines)
