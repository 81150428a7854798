"""Names of the classes, in the order of the model's outputs, and which of several places is believed.

`--class_names`, then the file that feeds the model (`--model_config` or `--calibration`), then a labels file beside the
in-distribution images (`ingest` writes one), then the one that TensorFlow Datasets writes.
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.model import calibration_given
from odin_beam.pipeline.flags.model_json import read_model_config
from odin_beam.transforms import limits
from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.ingest.labels_file import LABELS_FILE, class_names_in
from odin_beam.transforms.shards.contents.tfrecords import TFRecords
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import paths, reading
from odin_beam.transforms.storage.paths import absolute_path
from odin_beam.transforms.text import clipped

# What follows the prefix in the names of shards.
_NUMBER = re.compile(r"-\d{5}-of-\d{5}\.tfrecord$")


@dataclass(frozen=True)
class FoundNames:
    """Class names, and where they stand.

    Attributes:
      names: in the order of the classes.
      origin: the flag and the file, or the file.
      of_labels: whether they name the labels of images; these may be in another order than the model's outputs.
    """

    names: tuple[str, ...]
    origin: str
    of_labels: bool = False


@dataclass(frozen=True)
class ClassNames:
    """The places that name the classes of a model.

    Attributes:
      given: what the user asked for; None if nothing.
      found: the other places, the most trusted first.
    """

    given: FoundNames | None = None
    found: tuple[FoundNames, ...] = ()

    def of_model(self, classes: int, labels_fit: bool = True) -> tuple[str, ...] | None:
        """The names to use; None without any that fit. Says on standard error which do not.

        Args:
          classes: K.
          labels_fit: whether labels of images are in the order of the model's outputs, as far as that is known.

        Raises:
          UsageError: those that the user asked for are not of this many classes.
        """
        if self.given is not None:
            if len(self.given.names) != classes:
                raise UsageError(f"{_counts(self.given, classes)}: give one name a line, in the order of its outputs")
            return self.given.names
        for place in self.found:
            if len(place.names) != classes:
                print(f"{_counts(place, classes)}: these names are not used", file=sys.stderr)
            elif place.of_labels and not labels_fit:
                print(f"{place.origin}: the model does not predict these labels: names are not used", file=sys.stderr)
            else:
                return place.names
        return None


def read_class_names(path: str) -> list[str]:
    """The lines of the file that `--class_names` names.

    Raises:
      UsageError: it cannot be read, or is empty.
    """
    try:
        names = class_names_in(reading.read_bytes(path))
    except StorageError as e:
        raise UsageError(str(e)) from e
    if not names:
        raise UsageError(f"--class_names {path} is empty: one class name per line")
    return names


def find_class_names(arguments: argparse.Namespace, shards: Sequence[Shard]) -> ClassNames:
    """The places that a command line names, and those beside its in-distribution images.

    Args:
      arguments: parsed flags.
      shards: all of the run's.

    Raises:
      UsageError: `--class_names` or the file that feeds the model cannot be read.
    """
    given = None
    if (path := getattr(arguments, "class_names", None)) is not None:
        given = FoundNames(_clean(read_class_names(absolute_path(path))), f"--class_names {path}")
    found = [*_beside_model(arguments), *names_beside(shards, arguments.label_feature)]
    return ClassNames(given, tuple(found))


def _beside_model(arguments: argparse.Namespace) -> Iterator[FoundNames]:
    """The names in the file that says how to feed the model."""
    if arguments.model_config is not None:
        names = read_model_config(absolute_path(arguments.model_config)).found.get("class_names")
        yield from _of_json(names, f"--model_config {arguments.model_config}")
    elif (calibration := calibration_given(arguments)) is not None:
        yield from _of_json(calibration.content.get("class_names"), f"--calibration {arguments.calibration}")


def _of_json(names: Any, origin: str) -> Iterator[FoundNames]:
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        yield FoundNames(_clean(names), origin)


def names_beside(shards: Sequence[Shard], label_feature: str) -> Iterator[FoundNames]:
    """The names beside the first in-distribution shard, or the first table or folder of images.

    Args:
      shards: of any role.
      label_feature: its name, unless the source itself fixes it.
    """
    shard = next((shard for shard in shards if shard.role == "in_distribution"), None)
    if shard is None:
        return
    path = shard.path.partition(":")[2] if shard.content.list_path() is not None else shard.path
    if not (path.startswith("/") or "://" in path):
        return
    features = shard.content.features if isinstance(shard.content, TFRecords) else None
    label = label_feature if features is None else features.label
    # TensorFlow Datasets names its file after the feature.
    beside = [paths.join(paths.parent(path), name) for name in (LABELS_FILE, f"{label}.{LABELS_FILE}")]
    for candidate in [f"{_NUMBER.sub('', path)}-{LABELS_FILE}", *beside]:
        try:
            names = class_names_in(reading.read_bytes(candidate))
        except StorageError:
            continue
        if names:
            yield FoundNames(_clean(names), candidate, of_labels=True)


def _clean(names: Sequence[str]) -> tuple[str, ...]:
    """Names that a table can hold: what is not text becomes `?`, and overlong ones are cut."""
    return tuple(clipped(name.encode("utf-8", "replace").decode(), limits.MAX_ID_LENGTH) for name in names)


def _counts(place: FoundNames, classes: int) -> str:
    return f"{place.origin} has {len(place.names)} names, the model has {classes} classes"
