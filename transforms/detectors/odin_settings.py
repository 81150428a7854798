"""ODIN's two parameters, and grids of them. Imports no TensorFlow."""

import math
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True)
class OdinSettings:
    """The method's two parameters; the defaults are the paper's for DenseNet-BC on CIFAR-10.

        >>> odin_beam.OdinSettings(temperature=10)
        OdinSettings(temperature=10, epsilon=0.0014)

    Attributes:
      temperature: T > 0.
      epsilon: magnitude of the perturbation, from 0 to below 1, in [0, 1] pixel units; 0 leaves the image unchanged.
    """

    temperature: float = 1000.0
    epsilon: float = 0.0014

    def __post_init__(self):
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be a number above 0, not {self.temperature}")
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0):
            raise ValueError(f"epsilon must be a number of at least 0, not {self.epsilon}")
        if self.epsilon >= 1:
            raise ValueError(
                f"epsilon {self.epsilon:g} would leave nothing of a pixel, which is from 0 to 1: "
                f"did you mean {self.epsilon:g}/255 = {self.epsilon / 255:.6f}?"
            )


@dataclass(frozen=True)
class OdinGrid:
    """All combinations of temperatures and epsilons, to choose from.

    Attributes:
      temperatures: as in `OdinSettings`; at least one, without duplicates.
      epsilons: likewise.
    """

    temperatures: tuple[float, ...]
    epsilons: tuple[float, ...]

    def __post_init__(self):
        for name in ("temperatures", "epsilons"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must be at least one number, without duplicates, not {list(values)}")
        # Creating the cells checks every number.
        _ = self.cells

    @property
    def cells(self) -> dict[str, OdinSettings]:
        """The settings of each cell by name, which is also its column's name: `odin_T1000_eps0p0014`."""
        return {
            f"odin_T{_digits(temperature)}_eps{_digits(epsilon)}": OdinSettings(temperature, epsilon)
            for temperature in self.temperatures
            for epsilon in self.epsilons
        }


def _digits(value: float) -> str:
    """A number in a form that is valid in any column name: a dot would be taken for a nested field."""
    if not math.isfinite(value):
        return str(value)
    return format(Decimal(repr(float(value))).normalize(), "f").replace(".", "p")
