"""Passes through the classifier: how many a setting needs, and how long they take. Imports no TensorFlow."""

from typing import NamedTuple

from odin_beam.transforms.detectors.odin_settings import OdinGrid, OdinSettings


class Passes(NamedTuple):
    """Numbers of passes through the classifier, per image or in total.

    Attributes:
      forward: from pixels to logits.
      gradient: from the logits' derivative back to the pixels.
    """

    forward: int
    gradient: int


class PassTimes(NamedTuple):
    """How long one image takes.

    Attributes:
      forward: seconds of a forward pass.
      gradient: seconds of an input-gradient; 0 if none is computed.
    """

    forward: float
    gradient: float

    @property
    def odin_cost(self) -> float:
        """Time of ODIN with epsilon above 0, as a multiple of one forward pass."""
        return (2 * self.forward + self.gradient) / self.forward


def expected_passes(settings: OdinSettings | OdinGrid) -> Passes:
    """Passes per image: `1 + |T| |eps > 0|` forwards and, if any epsilon is above 0, `|T|` gradients."""
    cells = score_cells(settings).values()
    perturbed = [cell for cell in cells if cell.epsilon > 0]
    return Passes(1 + len(perturbed), len({cell.temperature for cell in perturbed}))


def score_cells(settings: OdinSettings | OdinGrid) -> dict[str, OdinSettings]:
    """The ODIN columns and the settings of each; a single column is called `odin`."""
    return settings.cells if isinstance(settings, OdinGrid) else {"odin": settings}
