"""Zip and tar archives: listed without unpacking, read in bounded memory.

Nothing is unpacked to disk, so a hostile name is harmless. Members of a zip or an uncompressed tar are read in place.
A compressed tar can only be streamed: once to list it, and then for every output shard from its beginning to the
shard's last member, so N shards decompress it about N / 2 times. If that takes too long, decompress it first
(`gunzip`). Members whose order in the archive differs from the order of their ids pass through an anonymous temporary
file as large as the output shard: so an archive on remote storage is read forwards, and memory stays bounded.
"""

import contextlib
import gzip
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import BinaryIO, NamedTuple

from odin_beam.transforms import errors
from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.ingest.members import (
    Container,
    Member,
    MemberBytes,
    Reject,
    member_id,
    printable,
    size_problem,
)
from odin_beam.transforms.storage import listing, reading
from odin_beam.transforms.storage.listing import FileStat
from odin_beam.transforms.storage.litter import is_skipped
from odin_beam.transforms.storage.random_access import open_random_access

# A tar header may announce an extension, such as a long name, of any length; tarfile would read all of it.
_MAX_TAR_HEADER_BYTES = 1 << 20
_SPOOL_BYTES = 1 << 26
_SKIP_BYTES = 1 << 20
_OUTSIDE = "damaged: the directory points outside the archive"


def archive_of(file: FileStat) -> Container:
    if file.path.lower().endswith(".zip"):
        kind = "zip"
    else:
        with reading.open_file(file.path) as stream:
            kind = "tar.gz" if stream.read(2) == b"\x1f\x8b" else "tar"
    return Container(kind, file.path, file.size, file.modified)


class _Entry(NamedTuple):
    """A member as listed in its archive; `problem` says why it is rejected, if that shows in the listing."""

    name: str
    place: int
    size: int
    problem: str | None


class _Broken(Exception):
    """The rest of an archive cannot be read; the message says why."""


def list_archive(archive: Container) -> tuple[list[Member], list[Reject]]:
    members, rejects = [], []
    entries = _zip_entries if archive.kind == "zip" else _tar_entries
    try:
        for entry in entries(archive):
            try:
                member = Member(archive, member_id(entry.name), entry.place, entry.size)
            except ValueError as e:
                rejects.append(Reject(printable(entry.name), str(e), archive.path))
                continue
            if is_skipped(member.id):
                continue
            if problem := entry.problem or size_problem(entry.size):
                rejects.append(Reject(printable(member.id), problem, archive.path, problem == _OUTSIDE))
            else:
                members.append(member)
    except _Broken as e:
        count = len(members) + len(rejects)
        state = (
            f"damaged: {count} members found, others may be lost" if count else f"no readable {archive.kind} archive"
        )
        name = printable(archive.path.rpartition("/")[2])
        rejects.append(Reject(name, f"{state} ({e})", archive.path, damage=True))
    return sorted(members, key=lambda member: (member.id, member.place)), rejects


def _zip_entries(archive: Container) -> Iterator[_Entry]:
    with _zip(archive) as opened:
        for place, info in enumerate(opened.infolist()):
            if not info.is_dir():
                yield _Entry(info.filename, place, info.file_size, _zip_problem(info, archive))


def _zip_problem(info: zipfile.ZipInfo, archive: Container) -> str | None:
    file_type = stat.S_IFMT(info.external_attr >> 16)
    if file_type == stat.S_IFLNK:
        return "a link; links are not followed"
    if file_type not in (0, stat.S_IFREG):
        return "a device or another special file"
    if info.flag_bits & 1:
        return "encrypted: unpack it and pack it without a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        # The decompressors for other methods cannot limit how far a few input bytes expand.
        return "compressed by another method than deflate: unpack it and pack it again"
    if not 0 <= info.header_offset < archive.size:
        return _OUTSIDE
    return None


@contextlib.contextmanager
def _zip(archive: Container) -> Iterator[zipfile.ZipFile]:
    with open_random_access(archive.path) as stream:
        with _reading():
            opened = zipfile.ZipFile(stream)
        with opened:
            yield opened


def _tar_entries(archive: Container) -> Iterator[_Entry]:
    with _tar_stream(archive) as stream:
        headers = _TarHeaders(stream)
        with _reading(), tarfile.open(fileobj=headers, mode="r:") as opened:
            while (info := opened.next()) is not None:
                # tarfile's own list would keep every header of the archive in memory.
                opened.members.clear()
                if info.size < 0:
                    raise _Broken("a member of negative size")
                if not info.isdir():
                    yield _Entry(info.name, info.offset_data, info.size, _tar_problem(info))
        # tarfile takes any header that it does not understand for the end.
        if headers.last_read != bytes(tarfile.BLOCKSIZE):
            raise _Broken("cut off" if len(headers.last_read) < tarfile.BLOCKSIZE else "a damaged header")
        if archive.kind == "tar.gz":
            # The only checksum is at the very end.
            with _reading():
                while stream.read(_SKIP_BYTES):
                    pass


def _tar_problem(info: tarfile.TarInfo) -> str | None:
    if info.issym() or info.islnk():
        return "a link; links are not followed"
    if not info.isreg():
        return "a device or another special file"
    if info.issparse():
        return "a sparse file: unpack it and pack it again"
    return None


class _TarHeaders:
    """The stream that tarfile reads headers from; it refuses oversized headers, and remembers the last bytes read."""

    def __init__(self, stream: BinaryIO):
        self._stream = stream
        self.seek = stream.seek
        self.tell = stream.tell
        self.last_read = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_TAR_HEADER_BYTES:
            raise _Broken(f"a header of {size} bytes")
        self.last_read = self._stream.read(size)
        return self.last_read


@contextlib.contextmanager
def _tar_stream(archive: Container) -> Iterator[BinaryIO]:
    if archive.kind == "tar":
        with open_random_access(archive.path) as stream:
            yield stream
    else:
        with reading.open_file(archive.path) as stream, gzip.GzipFile(fileobj=stream) as decompressed:
            yield decompressed


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Turns any error that a reader raises on an archive's damaged bytes into `_Broken`."""
    try:
        yield
    except (_Broken, StorageError):
        raise
    except Exception as e:
        raise _Broken(printable(errors.cause(e))) from e


def check_unchanged(archive: Container) -> None:
    """Checks that the archive was not replaced since it was listed: other bytes would be in the same places."""
    current = listing.stat_file(archive.path)
    if current is None or (current.size, current.modified) != (archive.size, archive.modified):
        raise StorageError(f"{archive.path} has changed since it was listed: run again")


def read_in_order(archive: Container, members: list[Member]) -> Iterator[MemberBytes]:
    """Reads an archive from front to back, and returns the members in the given order."""
    by_place = sorted(members, key=lambda member: member.place)
    if by_place == members:
        yield from _read_archive(archive, members)
        return
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as spool:
        spooled = {}
        for content in _read_archive(archive, by_place):
            spooled[content.member.place] = spool.tell(), replace(content, data=None)
            spool.write(content.data or b"")
        for member in members:
            offset, content = spooled[member.place]
            spool.seek(offset)
            yield content if content.problem else replace(content, data=spool.read(member.size))


def _read_archive(archive: Container, members: Iterable[Member]) -> Iterator[MemberBytes]:
    with (_zip_reader if archive.kind == "zip" else _tar_reader)(archive) as read:
        for member in members:
            try:
                with _reading():
                    data = read(member)
            except _Broken as e:
                yield MemberBytes(member, None, f"damaged: {e}", damage=True)
                continue
            if len(data) == member.size:
                yield MemberBytes(member, data)
            else:
                yield MemberBytes(member, None, f"cut off: {len(data)} of {member.size} bytes are present", damage=True)


@contextlib.contextmanager
def _zip_reader(archive: Container) -> Iterator[Callable[[Member], bytes]]:
    with _zip(archive) as opened:
        directory = opened.infolist()

        def read(member: Member) -> bytes:
            with opened.open(directory[member.place]) as stream:
                return stream.read(member.size)

        yield read


@contextlib.contextmanager
def _tar_reader(archive: Container) -> Iterator[Callable[[Member], bytes]]:
    with _tar_stream(archive) as stream:

        def read(member: Member) -> bytes:
            stream.seek(member.place)
            return stream.read(member.size)

        yield read
