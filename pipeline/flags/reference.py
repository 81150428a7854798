"""The flag `--reference`, shared by the jobs that compute fitted detectors."""

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.parser import Parser
from odin_beam.transforms.errors import FeatureReferenceError, StorageError
from odin_beam.transforms.fitting.reference import Reference
from odin_beam.transforms.scoring.own_reference import with_reference
from odin_beam.transforms.scoring.settings import ScoreSettings


def add_reference_flag(parser: Parser) -> None:
    """Adds `--reference`."""
    parser.add_argument(
        "--reference", metavar="FILE", help="reference.npz from `fit`, for the detectors that need one (default: none)"
    )


def referenced(
    settings: ScoreSettings, path: str, detectors: tuple[str, ...], flag: str = "reference"
) -> tuple[ScoreSettings, Reference]:
    """Settings with a reference, and that reference.

    Args:
      settings: how the model is fed.
      path: of the reference.
      detectors: to compute.
      flag: that names it, for messages.

    Raises:
      UsageError: it cannot be read, or is of another model.
    """
    try:
        return with_reference(settings, path, detectors)
    except ValueError as e:
        raise UsageError(f"--{e}") from e
    except (FeatureReferenceError, StorageError) as e:
        raise UsageError(f"--{flag}: {e}") from e
