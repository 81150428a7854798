"""Runs of the classifier: how many a setting takes, and how long they take. Imports no TensorFlow."""

from typing import NamedTuple

from odin_beam.transforms.detectors.odin_settings import OdinGrid, OdinSettings


class Passes(NamedTuple):
    """Runs of the classifier, per image or in all.

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
      gradient: seconds of an input-gradient; 0 where there is none.
    """

    forward: float
    gradient: float

    @property
    def odin_cost(self) -> float:
        """How many times the time of one forward pass ODIN takes, with epsilon above 0."""
        return (2 * self.forward + self.gradient) / self.forward


def expected_passes(settings: OdinSettings | OdinGrid) -> Passes:
    """What one image takes: `1 + |T| |eps > 0|` forwards and, where an epsilon is above 0, `|T|` gradients."""
    cells = score_cells(settings).values()
    moved = [cell for cell in cells if cell.epsilon > 0]
    return Passes(1 + len(moved), len({cell.temperature for cell in moved}))


def score_cells(settings: OdinSettings | OdinGrid) -> dict[str, OdinSettings]:
    """The ODIN columns, and the settings of each; a single one is called `odin`."""
    return settings.cells if isinstance(settings, OdinGrid) else {"odin": settings}
