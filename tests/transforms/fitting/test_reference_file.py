"""References as files: what was written is read, and what is not a reference is refused in one line."""

import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_beam.transforms import limits
from odin_beam.transforms.errors import FeatureReferenceError, StorageError
from odin_beam.transforms.fitting.reference_file import read_reference, write_reference
from tests.helpers import samples
from tests.helpers.feature_fits import fit, images


@pytest.fixture(scope="module")
def reference():
    return fit(images(), model="ab" * 32, geometry={"size": [32, 32]})


@pytest.fixture
def path(tmp_path, reference):
    write_reference(str(tmp_path / "reference.npz"), reference)
    return tmp_path / "reference.npz"


def test_what_was_written_is_read(path, reference):
    again = read_reference(str(path))
    assert again.digest == reference.digest
    assert again.about == reference.about
    assert (again.knn_k, again.nnguide_k) == (reference.knn_k, reference.nnguide_k)
    assert again.arrays().keys() == reference.arrays().keys()


def test_what_is_not_available_is_read_as_such(tmp_path):
    few = images(6).with_features(images(6).features - 9)
    written = fit(few)
    write_reference(str(tmp_path / "r.npz"), written)
    again = read_reference(str(tmp_path / "r.npz"))
    assert again.unavailable == written.unavailable
    assert (again.clip, again.residual) == (None, None)
    assert again.regularised == written.regularised == again.discouraged


def test_equal_references_are_equal_files(path, reference, tmp_path):
    write_reference(str(tmp_path / "again.npz"), reference)
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_numpy_reads_its_arrays(path, reference):
    with np.load(path, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["distances.whitening"], reference.distances.whitening)


def npy(array):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array)
    return buffer.getvalue()


def declared(header):
    """An array's file that says it is larger than it is."""
    text = repr(header).encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def altered(path, name, data, compression=zipfile.ZIP_STORED):
    """Replaces a member; None takes it away."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    members[name] = data(json.loads(members[name])) if callable(data) else data
    with zipfile.ZipFile(path, "w", compression) as archive:
        for member, content in members.items():
            if content is not None:
                archive.writestr(member, content if isinstance(content, bytes) else json.dumps(content))


HUGE = {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("mean.npy", npy(np.zeros(11)), "does not fit the others"),
        ("mean.npy", npy(np.zeros(12, np.float32)), "its array mean is <f4"),
        ("mean.npy", npy(np.zeros((12, 1))), "its array mean is <f8"),
        ("mean.npy", npy(np.array([{}] * 12)), r"its array mean is \|O"),
        ("mean.npy", npy(np.full(12, np.inf)), "not finite"),
        ("mean.npy", npy(np.zeros(12)), "does not match its digest"),
        ("mean.npy", declared(HUGE), "another size than it says|does not fit"),
        ("mean.npy", declared({**HUGE, "shape": (-1,)}), "not a reference"),
        ("mean.npy", declared(HUGE)[:20], "no readable header"),
        ("mean.npy", declared({**HUGE, "descr": [()]}), "no readable header"),
        ("mean.npy", b"\x93NUMPY\x01\x00" + (3000).to_bytes(2, "little") + b"-" * 3000, "no readable header"),
        ("mean.npy", b"\x93NUMPY\x01\x00" + (3000).to_bytes(2, "little") + b"(" * 3000, "no readable header"),
        ("mean.npy", b"\x93NUMPY\x02\x00", "unknown format"),
        ("mean.npy", None, "lacks an array"),
        ("bank.npy", None, "lacks an array"),
        ("distances.whitening.npy", None, "a part of distances only"),
        ("other.npy", npy(np.zeros(3)), "unknown array 'other'"),
        ("reference.json", None, "no reference.json"),
        ("reference.json", b"{", "not a reference"),
        ("reference.json", b"[" * 100_000, "nested too deeply"),
        ("reference.json", lambda meta: {**meta, "format": "2"}, "format"),
        ("reference.json", lambda meta: {**meta, "knn_k": 1 << 40}, "neighbours"),
        ("reference.json", lambda meta: {**meta, "nnguide_k": 0}, "neighbours"),
        ("reference.json", lambda meta: {**meta, "regularised": "mds"}, "regularised"),
    ],
)
def test_what_does_not_fit_is_refused(path, name, data, message):
    altered(path, name, data)
    with pytest.raises(FeatureReferenceError, match=message) as error:
        read_reference(str(path))
    assert "\n" not in str(error.value)


def test_compressed_arrays_are_refused(path):
    altered(path, "mean.npy", npy(np.zeros(12)), zipfile.ZIP_DEFLATED)
    with pytest.raises(FeatureReferenceError, match="compressed"):
        read_reference(str(path))


def test_a_file_above_the_limit_is_refused(path, monkeypatch):
    monkeypatch.setattr(limits, "MAX_REFERENCE_BYTES", 1000)
    with pytest.raises(FeatureReferenceError, match="the limit is 1,000"):
        read_reference(str(path))


def test_a_file_that_is_not_there_is_an_error_of_the_storage(tmp_path):
    with pytest.raises(StorageError):
        read_reference(str(tmp_path / "absent.npz"))


# Each example fits a reference, whose time is the machine's.
@given(data=st.data())
def test_damaged_files_are_read_or_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    small = fit(images(60, 2, 3), rows=4)
    write_reference(str(folder / "r.npz"), small)
    content = (folder / "r.npz").read_bytes()
    (folder / "r.npz").write_bytes(data.draw(samples.damaged(content)))
    try:
        assert read_reference(str(folder / "r.npz")).digest == small.digest
    except FeatureReferenceError as e:
        assert "\n" not in str(e)
