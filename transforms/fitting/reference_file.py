"""A reference as an `.npz` file, without pickles; reading trusts nothing in it.

The arrays are stored uncompressed, so that none can be larger than the file, and each must have the type that its name
stands for, and a shape that fits the others'.
"""

import io
import json
import math
import zipfile
from typing import Any, BinaryIO

import numpy as np

from odin_beam.transforms import limits
from odin_beam.transforms.errors import FeatureReferenceError, StorageError, cause
from odin_beam.transforms.fitting.covariance import Distances
from odin_beam.transforms.fitting.reference import Reference
from odin_beam.transforms.fitting.residual import Residual
from odin_beam.transforms.fitting.standards import Standards
from odin_beam.transforms.storage.reading import open_seekable
from odin_beam.transforms.storage.writing import write_streamed
from odin_beam.transforms.tables import json_shape
from odin_beam.transforms.tables.json_shape import COUNT, EVERY

FORMAT = "odin-beam reference 2"
_EARLIER = "odin-beam reference 1"


# Name -> type, and length of each axis: equal letters are equal lengths.
_DISTANCES = {"mean": "D", "whitening": "DR", "directions": "DK", "offsets": "K", "between": "DP"}
_ARRAYS = {
    "counts": ("<i8", "C"),
    "mean": ("<f8", "D"),
    "clip": ("<f8", ""),
    **{f"distances.{name}": ("<f8", axes) for name, axes in _DISTANCES.items()},
    # Unit features may leave other directions without variance.
    **{f"unit_distances.{n}": ("<f8", a.replace("R", "S").replace("P", "Q")) for n, a in _DISTANCES.items()},
    **{f"standards.{name}": ("<f8", "") for name in Standards._fields},
    "residual.origin": ("<f8", "D"),
    "residual.basis": ("<f8", "DV"),
    "residual.alpha": ("<f8", ""),
    "bank": ("<f4", "BD"),
    "bank_labels": ("<i4", "B"),
    "bank_energies": ("<f4", "B"),
    "she_means": ("<f8", "KD"),
    "she_counts": ("<i8", "K"),
    "digests": ("<i8", "N"),
}
_PARTS = {"distances": Distances, "unit_distances": Distances, "standards": Standards, "residual": Residual}
_SHAPE = {
    "format": FORMAT,
    "digest": str,
    "knn_k": COUNT,
    "nnguide_k": COUNT,
    "unavailable": {EVERY: str},
    "regularised": [str],
    "discouraged": [str],
    "about": {},
}
_META = "reference.json"
# The longest header that NumPy writes for an array without fields has 128 bytes.
_MAX_HEADER = 1 << 12
_MAX_META = 1 << 26


def write_reference(path: str, reference: Reference) -> None:
    """Writes a reference, completely or not at all.

    Raises:
      StorageError: the storage refused the write.
    """
    meta = {name: getattr(reference, name) for name in _SHAPE if name != "format"} | {"format": FORMAT}
    arrays = reference.arrays() | ({} if reference.digests is None else {"digests": reference.digests})

    def write(stream: BinaryIO) -> None:
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            # Of a fixed date, so that equal references are equal files.
            archive.writestr(zipfile.ZipInfo(_META), json.dumps(meta, default=dict, sort_keys=True))
            for name, array in arrays.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array, _ARRAYS[name][0]), allow_pickle=False)

    write_streamed(path, write)


def read_reference(path: str) -> Reference:
    """Reads a reference.

    Raises:
      FeatureReferenceError: the file is not a reference, damaged, too large or altered.
      StorageError: the file cannot be read.
    """
    with open_seekable(path) as stream:
        try:
            return _read(stream)
        except StorageError:
            raise
        except (
            FeatureReferenceError,
            zipfile.BadZipFile,
            ValueError,
            EOFError,
            NotImplementedError,
            RuntimeError,
        ) as e:
            raise FeatureReferenceError(f"{path} is not a reference of odin-beam: {cause(e)}") from None
        except OSError as e:
            raise StorageError(f"cannot read {path}: {cause(e)}") from e


def _read(stream: BinaryIO) -> Reference:
    size = stream.seek(0, io.SEEK_END)
    if size > limits.MAX_REFERENCE_BYTES:
        raise FeatureReferenceError(f"it has {size:,} bytes; the limit is {limits.MAX_REFERENCE_BYTES:,}")
    with zipfile.ZipFile(stream) as archive:
        members = {member.filename: member for member in archive.infolist()}
        names = [name.removesuffix(".npy") for name in members if name != _META]
        if unknown := set(names) - set(_ARRAYS):
            raise FeatureReferenceError(f"it has an unknown array {sorted(unknown)[0]!r:.50}")
        # Stored members that do not overlap cannot be larger than the file.
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members.values())
        if any(member.header_offset < 0 for member in members.values()):
            raise FeatureReferenceError("it is cut off")
        if not stored or sum(member.file_size for member in members.values()) > size:
            raise FeatureReferenceError("its arrays are compressed, or larger than the file")
        meta = _meta(archive, members)
        lengths, arrays = {}, {}
        for name in names:
            with archive.open(members[f"{name}.npy"]) as member:
                arrays[name] = _array(member, members[f"{name}.npy"].file_size, name, lengths)
    reference = _assembled(meta, arrays)
    if reference.digest != meta["digest"]:
        raise FeatureReferenceError("its content does not match its digest")
    return reference


def _meta(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> dict[str, Any]:
    if _META not in members or members[_META].file_size > _MAX_META:
        raise FeatureReferenceError(f"it has no {_META}, or too large a one")
    try:
        meta = json.loads(archive.read(members[_META]))
    except RecursionError:
        raise FeatureReferenceError(f"its {_META} is nested too deeply") from None
    if isinstance(meta, dict) and meta.get("format") == _EARLIER:
        raise FeatureReferenceError("another version made it: run `fit` again")
    if found := json_shape.problem(meta, _SHAPE, "its description"):
        raise FeatureReferenceError(found)
    return meta


def _array(member: BinaryIO, size: int, name: str, lengths: dict[str, int]) -> np.ndarray:
    """An array, whose type and shape are checked before anything is allocated for it."""
    version = np.lib.format.read_magic(member)
    if version != (1, 0):
        raise FeatureReferenceError(f"its array {name} is of an unknown format")
    try:
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member, max_header_size=_MAX_HEADER)
    except Exception as e:
        # NumPy parses the header as a Python literal, which fails in many ways.
        raise FeatureReferenceError(f"its array {name} has no readable header: {cause(e):.100}") from None
    expected, axes = _ARRAYS[name]
    if dtype.str != expected or len(shape) != len(axes) or min(shape, default=1) < 0:
        raise FeatureReferenceError(f"its array {name} is {dtype.str:.20} {shape!s:.50}")
    for axis, length in zip(axes, shape, strict=True):
        if lengths.setdefault(axis, length) != length:
            raise FeatureReferenceError(f"its array {name} has the shape {shape!s:.50}, which does not fit the others")
    count = math.prod(shape)
    if count * dtype.itemsize != size - member.tell():
        raise FeatureReferenceError(f"its array {name} has another size than it says")
    array = np.frombuffer(member.read(), dtype).reshape(shape, order="F" if fortran else "C")
    # Offsets are infinite for classes without images.
    if np.isnan(array).any() or (not name.endswith(".offsets") and not np.isfinite(array).all()):
        raise FeatureReferenceError(f"its array {name} has values that are not finite")
    return array


def _assembled(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reference:
    state = {name: array for name, array in arrays.items() if "." not in name}
    for name, kind in _PARTS.items():
        parts = {key.partition(".")[2]: array for key, array in arrays.items() if key.startswith(f"{name}.")}
        if parts and set(parts) != set(kind._fields):
            raise FeatureReferenceError(f"it has a part of {name} only")
        state[name] = kind(**parts) if parts else None
    pairs = (("bank", "bank_labels"), ("bank", "bank_energies"), ("she_means", "she_counts"))
    if any((a in state) != (b in state) for a, b in pairs) or not {"counts", "mean"} <= set(state):
        raise FeatureReferenceError("it lacks an array")
    rows = len(state.get("bank", ()))
    if not all(min(rows, 1) <= meta[k] <= rows for k in ("knn_k", "nnguide_k")):
        raise FeatureReferenceError("its numbers of neighbours do not fit its bank")
    return Reference(
        **state,
        knn_k=meta["knn_k"],
        nnguide_k=meta["nnguide_k"],
        unavailable=meta["unavailable"],
        regularised=tuple(meta["regularised"]),
        discouraged=tuple(meta["discouraged"]),
        about=meta["about"],
    )
