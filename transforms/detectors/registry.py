"""Every detector, one row each."""

from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from odin_beam.transforms.detectors.features import cam_max, cam_var, grad_norm
from odin_beam.transforms.detectors.logits import energy, gen, margin, max_logit, msp, neg_entropy
from odin_beam.transforms.model.activations import Activations


@dataclass(frozen=True)
class Detector:
    """A score of the clean forward.

    Attributes:
      score: the function.
      needs: the fields of `Activations` that it takes, in order.
      true_logits: whether a constant added to all logits of an image changes it, so that log-probabilities will not do.
    """

    score: Callable[..., tf.Tensor]
    needs: tuple[str, ...] = ("logits",)
    true_logits: bool = False

    def __call__(self, activations: Activations) -> tf.Tensor:
        return self.score(*(getattr(activations, name) for name in self.needs))


CLEAN_DETECTORS = {
    "msp": Detector(msp),
    "max_logit": Detector(max_logit, true_logits=True),
    "energy": Detector(energy, true_logits=True),
    "neg_entropy": Detector(neg_entropy),
    "margin": Detector(margin),
    "gen": Detector(gen),
    "grad_norm": Detector(grad_norm, ("logits", "features")),
    "cam_var": Detector(cam_var, ("logits", "maps", "kernel")),
    "cam_max": Detector(cam_max, ("logits", "maps", "kernel")),
}
DETECTORS = (
    *("odin", "msp", "max_logit", "energy", "neg_entropy", "margin"),
    *("gen", "grad_norm", "cam_var", "cam_max"),
)
