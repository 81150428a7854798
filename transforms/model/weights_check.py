"""Holds what a model's weights file declares to what it stores, before anything is allocated for it.

In 25 kB, an HDF5 file can declare gigabytes: chunks that were never written, or that compress to nothing. It can also
name other files to read from.
"""

import math
from typing import Any

import h5py

from odin_beam.transforms import limits


class RefusedWeights(ValueError):
    """A weights file that is not read; the message says why."""


def check_declared(size: int, file_size: int) -> None:
    """Checks the size that a file's content has when it is read; both in bytes.

    Raises:
      RefusedWeights: far above the file's own.
    """
    if size > limits.MAX_EXPANSION * file_size + limits.MAX_CONFIG_BYTES:
        raise RefusedWeights(f"it would expand to {size:,} bytes, from a file of {file_size:,}")


def check_hdf5(source: Any, file_size: int) -> None:
    """Checks every dataset of an HDF5 file of weights; reads none of them.

    Args:
      source: path, or file object.
      file_size: bytes that the model's file has.

    Raises:
      RefusedWeights: they declare far more than the file stores, refer to other files, or do not hold numbers.
      OSError: it is not an HDF5 file.
    """
    with h5py.File(source, "r") as file:
        check_declared(sum(_dataset_bytes(dataset) for dataset in _datasets(file)), file_size)


def _datasets(file: h5py.File) -> list[h5py.Dataset]:
    found, groups, seen = [], [file], set()
    while groups:
        group = groups.pop()
        # Groups can contain each other.
        if group.id in seen:
            continue
        seen.add(group.id)
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise RefusedWeights("its weights are links to other places")
            item = group[name]
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset):
                found.append(item)
    return found


def _dataset_bytes(dataset: h5py.Dataset) -> int:
    if dataset.is_virtual or dataset.external:
        raise RefusedWeights("its weights are in other files")
    if dataset.dtype.kind not in "biufV":
        raise RefusedWeights("its weights are not numbers")
    return math.prod(dataset.shape or ()) * dataset.dtype.itemsize
