"""`odin-beam ingest` on archives that are hostile, damaged, replaced or hard to read."""

import gzip
import io
import os
import struct
import tarfile
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odin_beam.transforms import errors, limits
from odin_beam.transforms.ingest import image_files
from odin_beam.transforms.ingest.members import member_id
from odin_beam.transforms.storage import file_system, reading
from odin_beam.transforms.storage.matched_files import match_files
from tests.helpers import samples
from tests.helpers.ingest_runs import (
    EXPECTED,
    FILES,
    FOLDERS,
    PNGS,
    ids,
    ingest,
    rejected,
    tar_file,
    usage_error,
    written,
    zip_file,
)


def special(name, member_type, linkname=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = member_type, linkname
    return info


def test_hostile_tar_members_do_no_harm(tmp_path):
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in (
            "../up.png",
            "a/../../up.png",
            "/abs.png",
            "C:\\x.png",
            "win\\dows.png",
            "./dot.png",
            "bell\a.png",
        ):
            info = tarfile.TarInfo(name)
            info.size = len(PNGS[0])
            archive.addfile(info, io.BytesIO(PNGS[0]))
        archive.addfile(special("link.png", tarfile.SYMTYPE, "/etc/passwd"))
        archive.addfile(special("hard.png", tarfile.LNKTYPE, "dot.png"))
        archive.addfile(special("device.png", tarfile.CHRTYPE))
        archive.addfile(special("pipe.png", tarfile.FIFOTYPE))
        archive.addfile(special("../folder", tarfile.DIRTYPE))
    before = {item for item in tmp_path.rglob("*")}
    prefix = tmp_path / "out" / "p"
    assert ingest(path, prefix, 1) == 0
    assert ids(prefix) == ["abs.png", "dot.png", "win/dows.png"]
    reasons = rejected(prefix)
    assert reasons["../up.png"] == reasons["a/../../up.png"] == "the name leads out of the archive"
    assert "drive letter" in reasons["C:\\x.png"]
    assert "control characters" in reasons["bell\\x07.png"]
    assert "links are not followed" in reasons["link.png"]
    assert "links are not followed" in reasons["hard.png"]
    assert "device" in reasons["device.png"]
    assert "device" in reasons["pipe.png"]
    assert len(reasons) == 8
    assert {item for item in tmp_path.rglob("*")} - before == {tmp_path / "out", *(tmp_path / "out").iterdir()}


def test_hostile_zip_members_do_no_harm(tmp_path, monkeypatch):
    path = tmp_path / "evil.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../up.png", "/abs.png", "c:/x.png", "good.png", "locked.png", "corrupt.png", "folder/"):
            archive.writestr(name, PNGS[0] if not name.endswith("/") else b"")
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("bzip2.png", PNGS[0], zipfile.ZIP_BZIP2)
        archive.writestr("large.png", bytes(5000), zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    # The directory's entry: signature, versions, then the flags at 8; the name at 46.
    data[data.rindex(b"locked.png") - 46 + 8] |= 1
    position = data.index(b"corrupt.png") + len(b"corrupt.png") + 40
    data[position] ^= 0xFF
    path.write_bytes(data)
    monkeypatch.setattr(limits, "MAX_RECORD_BYTES", 4000)
    prefix = tmp_path / "out" / "p"
    assert ingest(path, prefix, 1) == 3
    assert ids(prefix) == ["abs.png", "good.png"]
    reasons = rejected(prefix)
    assert "leads out" in reasons["../up.png"]
    assert "drive letter" in reasons["c:/x.png"]
    assert "encrypted" in reasons["locked.png"]
    assert "Bad CRC-32" in reasons["corrupt.png"]
    assert "links are not followed" in reasons["link.png"]
    assert "deflate" in reasons["bzip2.png"]
    assert reasons["large.png"] == "too large: 5000 bytes; the limit is 4000"
    assert len(reasons) == 7


def test_a_zip_member_that_lies_is_not_read_beyond_its_size(tmp_path, monkeypatch):
    """A bomb: a megabyte behind a declared kilobyte."""
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", PNGS[0] + bytes(1 << 20))
        archive.writestr("good.png", PNGS[1])
    data = path.read_bytes().replace(struct.pack("<I", len(PNGS[0]) + (1 << 20)), struct.pack("<I", 1000))
    path.write_bytes(data)
    read = []
    original = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n: read.append(n) or original(self, n))
    assert ingest(path, tmp_path / "out" / "p", 1) == 3
    assert "damaged" in rejected(tmp_path / "out" / "p")["bomb.png"]
    assert ids(tmp_path / "out" / "p") == ["good.png"]
    assert max(read) == 1000


def header(name, size):
    """A tar header that declares what it likes."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(data):
    return data + bytes(-len(data) % 512)


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["tar", "tar.gz"])
@pytest.mark.parametrize(
    ("tail", "said"),
    [
        (header("huge.png", 1 << 40), "huge.png"),
        (header("negative.png", -512), "negative size"),
        (tarfile.TarInfo("x" * 200).tobuf(tarfile.GNU_FORMAT)[:124] + b"77777777777\0" + bytes(376), "damaged header"),
        (b"\x01" * 512, "damaged header"),
        (header("cut.png", 1000) + b"few bytes", "cut"),
        (header("cut.png", 0)[:100], "cut off"),
        (b"", "cut off"),
    ],
    ids=["huge", "negative", "bad checksum", "garbage", "cut in a member", "cut in a header", "no end"],
)
def test_a_tar_that_breaks_midway_gives_what_is_before(tail, said, compress, tmp_path):
    path = tmp_path / "broken.tar"
    path.write_bytes(compress(header("good.png", len(PNGS[0])) + padded(PNGS[0]) + tail))
    members, rejects = image_files.list_members(match_files(str(path)))
    (damage,) = [reject for reject in rejects if reject.damage]
    assert (damage.id, damage.source) == ("broken.tar", str(path))
    assert "damaged: " in damage.reason
    good, *others = sorted(image_files.read_members(members), key=lambda content: content.problem is not None)
    assert (good.member.id, good.data) == ("good.png", PNGS[0])
    assert said in str([*rejects, *others])
    assert not any(content.data for content in others)


def test_a_tar_header_of_a_gigabyte_is_not_read_into_memory(tmp_path, capsys):
    longname = tarfile.TarInfo("././@LongLink")
    longname.type, longname.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    path = tmp_path / "longname.tar"
    path.write_bytes(longname.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert ingest(path, tmp_path / "out" / "p", 1) == 2
    assert "a header of 1073741824 bytes" in usage_error(capsys)


def test_a_truncated_archive_is_taken_as_far_as_it_goes(tmp_path, capsys):
    files = {f"{i:02d}.png": samples.encoded(image) for i, image in enumerate(samples.random_images(40, (32, 32, 3)))}
    path = tar_file(tmp_path / "cut.tgz", files, "w:gz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    prefix = tmp_path / "out" / "p"
    assert ingest(path, prefix, 3) == 3
    there = written(prefix)
    assert 10 < len(there) < 30
    assert all(files[name] == image for name, _, image in there)
    assert "cut.tgz" in rejected(prefix)
    assert "images may be missing" in capsys.readouterr().out


def test_a_flipped_bit_in_a_gzip_of_whole_members_is_noticed(tmp_path):
    path = tar_file(tmp_path / "a.tar")
    flipped = bytearray(gzip.compress(path.read_bytes(), 0))
    flipped[flipped.index(PNGS[0]) + 60] ^= 1
    path.write_bytes(flipped)
    members, (reject,) = image_files.list_members(match_files(str(path)))
    assert len(members) == len(FILES)
    assert reject.damage
    assert "CRC check failed" in reject.reason


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>" * 100, b"\x1f\x8b" + b"?" * 2000])
def test_what_is_no_archive_is_a_usage_error(name, content, tmp_path, capsys):
    (tmp_path / name).write_bytes(content)
    assert ingest(tmp_path / name, tmp_path / "out" / "p") == 2
    assert f"{tmp_path / name}: no readable" in usage_error(capsys)
    assert not (tmp_path / "out").exists()


def test_one_bad_archive_among_good_ones_is_damage(tmp_path, capsys):
    zip_file(tmp_path / "in" / "good.zip")
    (tmp_path / "in" / "bad.zip").write_bytes(b"PK")
    (tmp_path / "in" / "other.7z").write_bytes(b"7z")
    assert ingest(tmp_path / "in", tmp_path / "out" / "p", 2, FOLDERS) == 3
    assert written(tmp_path / "out" / "p") == EXPECTED
    printed = capsys.readouterr().out
    assert "bad.zip: no readable zip archive" in printed
    assert "other.7z: an archive of a kind that is not read" in printed


def test_an_empty_archive_is_a_usage_error(tmp_path, capsys):
    assert ingest(tar_file(tmp_path / "empty.tar", {}), tmp_path / "out" / "p") == 2
    assert "without any file" in usage_error(capsys)


def test_an_archive_replaced_after_listing_is_not_read(tmp_path):
    path = tar_file(tmp_path / "a.tar")
    members, _ = image_files.list_members(match_files(str(path)))
    tar_file(path, {**FILES, "more.png": PNGS[9]})
    os.utime(path, (1, 1))
    with pytest.raises(errors.StorageError, match="has changed"):
        list(image_files.read_members(members))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_an_id_is_a_harmless_relative_path(name):
    try:
        made = member_id(name)
    except ValueError:
        return
    parts = made.split("/")
    assert not {"", ".", ".."} & set(parts)
    assert "\\" not in made
    assert member_id(made) == made or made[1:2] == ":"


@pytest.mark.parametrize(("make", "name"), [(zip_file, "a.zip"), (tar_file, "a.tar")])
def test_an_archive_is_read_through_passing_storage_trouble(make, name, tmp_path, monkeypatch):
    path = make(tmp_path / name)
    opened = []

    class Unsteady:
        """Breaks at every second read."""

        def __init__(self, stream):
            self._stream, self._reads = stream, 0
            self.seek, self.close = stream.seek, stream.close
            opened.append(self)

        def read(self, size):
            self._reads += 1
            if self._reads == 2:
                raise ConnectionError("reset by peer")
            return self._stream.read(min(size, 700))

    open_steady = file_system.open_to_read
    monkeypatch.setattr(reading, "RETRY_DELAYS", (0.0,))
    monkeypatch.setattr(file_system, "open_to_read", lambda path: Unsteady(open_steady(path)))
    members, rejects = image_files.list_members(match_files(str(path)))
    assert not rejects
    assert {content.member.id: content.data for content in image_files.read_members(members)} == FILES
    assert len(opened) > 4
