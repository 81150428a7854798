"""Flags of `score --from_features`: other detectors from the features that a run kept, without images or a model."""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.groups import group_options
from odin_beam.pipeline.flags.parser import Parser, items
from odin_beam.transforms.storage.paths import absolute_path

# All others say where images are, or how a model is fed and run.
_FLAGS = frozenset(
    ("from_features", "reference", "detectors", "output", "near", "far", "max_rejected", "overwrite", "command")
)


@dataclass(frozen=True)
class FromFeaturesOptions:
    """Options of `score --from_features`; those that `ScoreOptions` also has mean the same.

    Attributes:
      folder: absolute path of the output folder of the run that kept features.
      output: absolute path of the folder of this run.
      reference: absolute path.
      detectors: chosen ones; empty for all.
    """

    folder: str
    output: str
    reference: str
    detectors: tuple[str, ...]
    max_rejected: float
    overwrite: bool
    groups: Mapping[str, tuple[str, ...]]
    arguments: argparse.Namespace
    beam: tuple[str, ...] = ()

    @property
    def worker_paths(self) -> list[tuple[str, str]]:
        """(flag, path) of everything that workers read or write."""
        return [("from_features", self.folder), ("output", self.output), ("reference", self.reference)]


def add_from_features_flag(parser: Parser) -> None:
    """Adds `--from_features`."""
    parser.add_argument(
        "--from_features",
        metavar="DIR",
        help="instead of images and a model: the output folder of a run with --features; the detectors of --reference "
        "and those of the model's last layer are computed from its features, the other columns copied (default: none)",
    )


def from_features_options(
    arguments: argparse.Namespace, beam: tuple[str, ...], default: Callable[[str], Any]
) -> FromFeaturesOptions:
    """The options.

    Args:
      arguments: the parsed flags.
      beam: Beam's own flags.
      default: name of a flag -> its value if it is not given.

    Raises:
      UsageError: a flag that makes no sense here, or none that names a reference.
    """
    for name, value in vars(arguments).items():
        if name not in _FLAGS and value != default(name):
            raise UsageError(f"give --from_features or --{name}, not both: images, model and settings are those of DIR")
    if arguments.reference is None:
        raise UsageError("--from_features: give --reference, a reference.npz from `fit`")
    return FromFeaturesOptions(
        absolute_path(arguments.from_features),
        absolute_path(arguments.output),
        absolute_path(arguments.reference),
        tuple(dict.fromkeys(items(arguments.detectors))),
        arguments.max_rejected,
        arguments.overwrite,
        group_options(arguments),
        arguments,
        beam,
    )
