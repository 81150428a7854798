"""Image files in folders, behind globs and in archives: lists them, and reads them one at a time.

Which kind a file is, its name tells: `.zip`, `.tar`, `.tar.gz` and `.tgz` are archives (whether a tar is compressed,
its first bytes tell), all else is a loose file. Whether it is an image is not decided here.

* An id is the path inside the archive, or relative to the folder or to the fixed part of the glob, always with `/`. If
  several arguments stand for loose files, their ids are relative to what these folders have in common, so that they
  and the class names stay apart.
* Hidden files (`.DS_Store`, anything below `.git`) and `__MACOSX` are passed over in silence.
* Nothing is unpacked to disk, so a hostile name can do no harm. A leading `/` or `./` is dropped from it; a name with
  `..`, a drive letter or control characters is rejected, as are links, devices and encrypted members.
* No more of a file is read than `records.MAX_RECORD_BYTES`, whatever it declares.

What it costs: members of a zip or a plain tar are read where they stand. A compressed tar can only be streamed: once
to list it, and then for every output shard from its beginning to the shard's last member, so that N shards decompress
it about N / 2 times. Where that hurts, decompress it first (`gunzip`). Members that stand in the archive in another
order than that of their ids pass through an anonymous temporary file as large as the output shard: an archive on
remote storage is thus read forwards, and memory stays bounded.
"""

import contextlib
import gzip
import itertools
import re
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, NamedTuple

from odin_beam.transforms import errors
from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.shards import records
from odin_beam.transforms.storage import listing, reading
from odin_beam.transforms.storage.listing import FileStat
from odin_beam.transforms.storage.random_access import open_random_access

_TFRECORD_NAME = re.compile(r"\.tfrec(ords?)?(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE)
_TAR_NAMES = (".tar", ".tar.gz", ".tgz")
_OTHER_ARCHIVES = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
_FIXED_PART = re.compile(r"[^*?[]*")
# A tar header may announce an extension, such as a long name, of any length; tarfile would read it whole.
_MAX_TAR_HEADER_BYTES = 1 << 20
_MAX_NAME_LENGTH = 4096
_SPOOL_BYTES = 1 << 26
_SKIP_BYTES = 1 << 20
_OUTSIDE = "damaged: the directory points outside the archive"


@dataclass(frozen=True)
class Container:
    """What holds image files.

    Attributes:
      kind: `folder`, `zip`, `tar` or `tar.gz`.
      path: of the archive; of a folder with its closing `/`.
      size: bytes of the archive, as listed.
      modified: of the archive, as listed.
    """

    kind: str
    path: str
    size: int = 0
    modified: float = 0.0


@dataclass(frozen=True)
class Member:
    """One file in a container.

    Attributes:
      container: what holds it.
      id: its path there.
      place: position in a zip's directory; offset of its data in a tar (decompressed); 0 in a folder.
      size: bytes, as declared.
    """

    container: Container
    id: str
    place: int
    size: int


@dataclass(frozen=True)
class Reject:
    """A file or record that is not taken.

    Attributes:
      id: as it would have been, made printable.
      reason: why, in words.
      source: path of the archive, folder or shard that holds it.
      damage: whether the input is at fault, and images may be missing, rather than the file being no image.
    """

    id: str
    reason: str
    source: str
    damage: bool = False


@dataclass(frozen=True)
class Content:
    """A member's bytes, or why there are none (`problem`; with `damage` as in `Reject`)."""

    member: Member
    data: bytes | None
    problem: str | None = None
    damage: bool = False


@dataclass(frozen=True)
class Matched:
    """The files that an `--images` argument stands for.

    Attributes:
      root: the folder or the fixed part of the glob, with its closing `/`.
      files: by path, hidden ones left out.
    """

    root: str
    files: tuple[FileStat, ...]


def match_files(pattern: str) -> Matched:
    """Lists a folder (and all below it), a glob, or one file.

    Raises:
      StorageError: it cannot be listed.
    """
    fixed = _FIXED_PART.match(pattern)[0]
    folder = pattern.rstrip("/") + "/"
    if fixed != pattern and listing.stat_file(pattern) is None:
        files, root = listing.list_files(pattern), _parent(fixed)
    elif files := _list_literally(folder, "**"):
        root = folder
    else:
        files, root = _list_literally(pattern), _parent(pattern)
    return Matched(root, tuple(file for file in files if not is_hidden(file.path.removeprefix(root))))


def with_common_root(arguments: Sequence[Matched]) -> list[Matched]:
    """The same files; where several arguments stand for loose ones, as seen from the folder above all of these."""
    loose = [argument for argument in arguments if not all(is_archive(file.path) for file in argument.files)]
    roots = {argument.root for argument in loose}
    if len(roots) < 2:
        return list(arguments)
    levels = zip(*(root.split("/") for root in roots), strict=False)
    common = "".join(f"{names[0]}/" for names in itertools.takewhile(lambda names: len(set(names)) == 1, levels))
    return [replace(argument, root=common) if argument in loose else argument for argument in arguments]


def is_archive(path: str) -> bool:
    """Whether a file is an archive, by its name."""
    return path.lower().endswith((".zip", *_TAR_NAMES, *_OTHER_ARCHIVES))


def _list_literally(start: str, glob: str = "") -> list[FileStat]:
    """Files by a path that may hold glob characters of its own, which Beam has no way to quote."""
    listed = listing.list_files(re.sub(r"[*?[]", "?", start) + glob)
    return [file for file in listed if file.path.startswith(start)]


def _parent(path: str) -> str:
    return path.rpartition("/")[0] + "/"


def is_tfrecord(path: str) -> bool:
    """Whether a file is TFRecord, by its name."""
    return bool(_TFRECORD_NAME.search(path))


def is_hidden(member_id: str) -> bool:
    """Whether a file is one that its owner does not see."""
    return any(part.startswith(".") or part == "__MACOSX" for part in member_id.split("/"))


def folder_of(member_id: str) -> str | None:
    """Name of the immediate parent folder; None for a file at the root."""
    parts = member_id.split("/")
    return parts[-2] if len(parts) > 1 else None


def printable(name: str) -> str:
    """A name as it may be shown: control characters and bytes that are no UTF-8 as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name[:_MAX_NAME_LENGTH])


def list_members(matched: Matched) -> tuple[list[Member], list[Reject]]:
    """The files behind an argument, by path, each archive's members in its place; and what is seen to be of no use.

    Raises:
      StorageError: an archive cannot be read; what is wrong with its bytes does not raise.
    """
    folder = Container("folder", matched.root)
    members, rejects = [], []
    for file in matched.files:
        name = file.path.removeprefix(matched.root)
        if file.path.lower().endswith((".zip", *_TAR_NAMES)):
            found, refused = _list_archive(_archive(file))
            members += found
            rejects += refused
        elif file.path.lower().endswith(_OTHER_ARCHIVES):
            reason = "an archive of a kind that is not read: unpack it, or pack it as .zip or .tar"
            rejects.append(Reject(printable(name), reason, file.path, damage=True))
        elif problem := _size_problem(file.size):
            rejects.append(Reject(printable(name), problem, folder.path))
        else:
            members.append(Member(folder, name, 0, file.size))
    return members, rejects


def _size_problem(size: int) -> str | None:
    if size > records.MAX_RECORD_BYTES:
        return f"too large: {size} bytes; the limit is {records.MAX_RECORD_BYTES}"
    return None


def _archive(file: FileStat) -> Container:
    if file.path.lower().endswith(".zip"):
        kind = "zip"
    else:
        with reading.open_file(file.path) as stream:
            kind = "tar.gz" if stream.read(2) == b"\x1f\x8b" else "tar"
    return Container(kind, file.path, file.size, file.modified)


class _Entry(NamedTuple):
    """A member as its archive lists it; `problem` says what is wrong with it at first sight."""

    name: str
    place: int
    size: int
    problem: str | None


class _Broken(Exception):
    """An archive cannot be followed any further; the message says why."""


def _list_archive(archive: Container) -> tuple[list[Member], list[Reject]]:
    members, rejects = [], []
    entries = _zip_entries if archive.kind == "zip" else _tar_entries
    try:
        for entry in entries(archive):
            try:
                member = Member(archive, member_id(entry.name), entry.place, entry.size)
            except ValueError as e:
                rejects.append(Reject(printable(entry.name), str(e), archive.path))
                continue
            if is_hidden(member.id):
                continue
            if problem := entry.problem or _size_problem(entry.size):
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


def member_id(name: str) -> str:
    """The id of an archive's member: its name with `/` for every separator, relative to the archive's root.

    Raises:
      ValueError: the name means no harmless place; the message says why.
    """
    if len(name) > _MAX_NAME_LENGTH:
        raise ValueError("the name is too long")
    if any(c < " " or c == "\x7f" for c in name):
        raise ValueError("the name holds control characters")
    if re.match("[A-Za-z]:", name):
        raise ValueError("the name is a path with a drive letter")
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError("the name leads out of the archive")
    if not parts:
        raise ValueError("the name is empty")
    return "/".join(parts)


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
        # The modules for the others cannot bound what a few input bytes expand to.
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
                # The list that tarfile keeps would hold every header of the archive in memory.
                opened.members.clear()
                if info.size < 0:
                    raise _Broken("a member of negative size")
                if not info.isdir():
                    yield _Entry(info.name, info.offset_data, info.size, _tar_problem(info))
        # tarfile takes every header that it does not understand for the end.
        if headers.last_read != bytes(tarfile.BLOCKSIZE):
            raise _Broken("cut off" if len(headers.last_read) < tarfile.BLOCKSIZE else "a damaged header")
        if archive.kind == "tar.gz":
            # Its only checksum stands at its very end.
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
    """The stream that tarfile reads headers from: refuses oversized ones, and keeps what was read last."""

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
    """What is wrong with an archive's bytes may make a reader raise nearly anything; it all means `_Broken`."""
    try:
        yield
    except (_Broken, StorageError):
        raise
    except Exception as e:
        raise _Broken(printable(errors.cause(e))) from e


def read_members(members: Iterable[Member]) -> Iterator[Content]:
    """Reads members one at a time, in the order given.

    Raises:
      StorageError: an archive cannot be read any more, or is not the one that was listed.
    """
    for container, group in itertools.groupby(members, key=lambda member: member.container):
        if container.kind == "folder":
            yield from map(_read_file, group)
        else:
            _check_unchanged(container)
            yield from _read_in_order(container, list(group))


def _read_file(member: Member) -> Content:
    try:
        with reading.open_file(member.container.path + member.id) as stream:
            data = stream.read(member.size + 1)
    except StorageError as e:
        return Content(member, None, str(e), damage=True)
    if len(data) != member.size:
        return Content(member, None, "its size has changed since it was listed", damage=True)
    return Content(member, data)


def _check_unchanged(archive: Container) -> None:
    """In an archive that was replaced, other bytes stand at the same place."""
    now = listing.stat_file(archive.path)
    if now is None or (now.size, now.modified) != (archive.size, archive.modified):
        raise StorageError(f"{archive.path} has changed since it was listed: run again")


def _read_in_order(archive: Container, members: list[Member]) -> Iterator[Content]:
    """Reads an archive from front to back, and gives the members in the order given."""
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


def _read_archive(archive: Container, members: Iterable[Member]) -> Iterator[Content]:
    with (_zip_reader if archive.kind == "zip" else _tar_reader)(archive) as read:
        for member in members:
            try:
                with _reading():
                    data = read(member)
            except _Broken as e:
                yield Content(member, None, f"damaged: {e}", damage=True)
                continue
            if len(data) == member.size:
                yield Content(member, data)
            else:
                yield Content(member, None, f"cut off: {len(data)} of {member.size} bytes are there", damage=True)


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
