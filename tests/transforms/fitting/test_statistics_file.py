"""Files of a fit's statistics: read as written, made again if anything is wrong with them."""

import io
import pickle
import zipfile

import numpy as np
import pytest

from odin_beam.transforms.errors import OutputError, StorageError
from odin_beam.transforms.fitting.statistics_file import (
    has_state,
    read_state,
    read_statistics,
    state_of,
    write_statistics,
)

ARRAYS = {
    "matrix": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "none": np.zeros((0, 3), np.float32),
    "one": np.array(7),
}
STATE = state_of("a", [1, 2], {"b": None})


@pytest.fixture
def path(tmp_path):
    write_statistics(str(tmp_path / "folder/s.npz"), STATE, ARRAYS)
    return tmp_path / "folder/s.npz"


def test_what_was_written_is_read(path):
    arrays = read_statistics(str(path))
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (arrays[name].dtype, arrays[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(arrays[name], array)
    assert read_state(str(path)) == STATE
    assert [found.name for found in path.parent.iterdir()] == ["s.npz"]


def test_numpy_reads_it_without_pickles(path):
    with np.load(path, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["fortran"], ARRAYS["fortran"])


def test_only_the_state_that_it_was_made_from_is_its_own(path, tmp_path):
    assert has_state(str(path), STATE)
    assert not has_state(str(path), state_of("a", [1, 3], {"b": None}))
    assert not has_state(str(tmp_path / "absent.npz"), STATE)


@pytest.mark.parametrize("cut", [0, 10, 200, -1])
def test_a_file_that_is_cut_off_is_made_again(path, cut):
    path.write_bytes(path.read_bytes()[:cut])
    assert not has_state(str(path), STATE)
    with pytest.raises(StorageError, match=r"is damaged .*remove it and run again"):
        read_statistics(str(path))


def test_a_changed_byte_is_noticed(path):
    data = bytearray(path.read_bytes())
    at = data.index(ARRAYS["matrix"].tobytes()) + 9
    data[at] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match="is damaged"):
        read_statistics(str(path))


def npy(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("compression", "content"),
    [
        (zipfile.ZIP_DEFLATED, npy(np.zeros(1_000_000))),
        (zipfile.ZIP_STORED, npy(np.zeros(4)).replace(b"(4,)", b"(9,)")),
        (zipfile.ZIP_STORED, npy(np.array([{"a": 1}], object))),
        (zipfile.ZIP_STORED, pickle.dumps([1])),
    ],
    ids=["compressed", "short", "objects", "pickle"],
)
def test_what_no_fit_writes_is_refused(path, compression, content):
    with zipfile.ZipFile(path, "a", compression) as archive:
        archive.writestr("more.npy", content)
    with pytest.raises(StorageError, match="is damaged"):
        read_statistics(str(path))


def test_a_storage_that_refuses_stops_the_run(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        write_statistics(str(tmp_path / "file/s.npz"), STATE, ARRAYS)
