"""The `.npz` files of a fit's folder: weights, partial sums, and what was merged of them; no pickles.

Each states what it was made from. A file that says otherwise, or cannot be read, is made again.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from odin_beam.transforms.errors import StorageError, cause
from odin_beam.transforms.storage import listing
from odin_beam.transforms.storage.reading import open_seekable
from odin_beam.transforms.storage.writing import write_streamed
from odin_beam.transforms.tables.parquet import as_output_error

_STATE = "state"


def state_of(*parts: Any) -> str:
    """SHA-256, in hex, of JSON-compatible values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def write_statistics(path: str, state: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays completely or not at all.

    Args:
      path: of the file.
      state: of all that they depend on; see `state_of`.
      arrays: by name.

    Raises:
      OutputError: the storage refused the write.
    """

    def write(stream: BinaryIO) -> None:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            for name, array in {_STATE: np.frombuffer(state.encode(), np.uint8), **arrays}.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)

    with as_output_error(path):
        write_streamed(path, write)


def has_state(path: str, state: str) -> bool:
    """Whether there is such a file, made from just this."""
    if listing.stat_file(path) is None:
        return False
    try:
        return read_state(path) == state
    except StorageError:
        return False


def read_state(path: str) -> str:
    """What the file was made from, for the states of those that are made from it.

    Raises:
      StorageError: the file is missing or damaged.
    """
    return _read(path, [_STATE])[_STATE].tobytes().decode(errors="replace")


def read_statistics(path: str) -> dict[str, np.ndarray]:
    """Every array of a file.

    Raises:
      StorageError: the file is missing or damaged.
    """
    arrays = _read(path, None)
    del arrays[_STATE]
    return arrays


def of_part(arrays: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """The arrays that were stored as `PART.NAME`, by NAME."""
    return {name.removeprefix(f"{part}."): array for name, array in arrays.items() if name.startswith(f"{part}.")}


def as_part(arrays: Mapping[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """The arrays under names for `of_part`."""
    return {f"{part}.{name}": array for name, array in arrays.items()}


def _read(path: str, names: list[str] | None) -> dict[str, np.ndarray]:
    with open_seekable(path) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                members = archive.infolist()
                # So no array can be larger than the file.
                if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                    raise ValueError("its arrays are compressed")
                arrays = {}
                for member in members:
                    name = member.filename.removesuffix(".npy")
                    if names is None or name in names:
                        with archive.open(member) as data:
                            arrays[name] = _array(data, member.file_size)
                if _STATE not in arrays:
                    raise ValueError("it has no state")
                return arrays
        except Exception as e:
            # A damaged archive fails in many ways.
            raise StorageError(f"{path} is damaged ({cause(e)}): remove it and run again") from e


def _array(member: Any, size: int) -> np.ndarray:
    if np.lib.format.read_magic(member) != (1, 0):
        raise ValueError("an array of an unknown format")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != size - member.tell():
        raise ValueError("an array of another size than it says")
    # Read into the array itself: the bytes of a large one would be a second copy.
    array = np.empty(math.prod(shape), dtype)
    view = memoryview(array.view(np.uint8)) if array.nbytes else memoryview(b"")
    done = 0
    while done < len(view):
        chunk = member.read(min(1 << 24, len(view) - done))
        if not chunk:
            raise ValueError("it is cut off")
        view[done : done + len(chunk)] = chunk
        done += len(chunk)
    return array.reshape(shape, order="F" if fortran else "C")
