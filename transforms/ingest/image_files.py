"""Image files in folders, behind globs and in archives: lists them, and reads them one at a time.

Which kind a file is, its name tells: `.zip`, `.tar`, `.tar.gz` and `.tgz` are archives (whether a tar is compressed,
its first bytes tell), all else is a loose file. Whether it is an image is not decided here.

* An id is the path inside the archive, or relative to the folder or to the fixed part of the glob, always with `/`. If
  several arguments stand for loose files, their ids are relative to what these folders have in common, so that they
  and the class names stay apart.
* Hidden files (`.DS_Store`, anything below `.git`) and `__MACOSX` are passed over in silence.
* Nothing is unpacked to disk, so a hostile name can do no harm. A leading `/` or `./` is dropped from it; a name with
  `..`, a drive letter or control characters is rejected, as are links, devices and encrypted members.
* No more of a file is read than `limits.MAX_RECORD_BYTES`, whatever it declares.

What it costs: members of a zip or a plain tar are read where they stand. A compressed tar can only be streamed: once
to list it, and then for every output shard from its beginning to the shard's last member, so that N shards decompress
it about N / 2 times. Where that hurts, decompress it first (`gunzip`). Members that stand in the archive in another
order than that of their ids pass through an anonymous temporary file as large as the output shard: an archive on
remote storage is thus read forwards, and memory stays bounded.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.ingest.archives import archive_of, check_unchanged, list_archive, read_in_order
from odin_beam.transforms.ingest.members import (
    Container,
    Member,
    MemberBytes,
    Reject,
    is_hidden,
    printable,
    size_problem,
)
from odin_beam.transforms.storage import listing, reading
from odin_beam.transforms.storage.listing import FileStat

_TFRECORD_NAME = re.compile(r"\.tfrec(ords?)?(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE)
_TAR_NAMES = (".tar", ".tar.gz", ".tgz")
_OTHER_ARCHIVES = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")
_FIXED_PART = re.compile(r"[^*?[]*")


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
            found, refused = list_archive(archive_of(file))
            members += found
            rejects += refused
        elif file.path.lower().endswith(_OTHER_ARCHIVES):
            reason = "an archive of a kind that is not read: unpack it, or pack it as .zip or .tar"
            rejects.append(Reject(printable(name), reason, file.path, damage=True))
        elif problem := size_problem(file.size):
            rejects.append(Reject(printable(name), problem, folder.path))
        else:
            members.append(Member(folder, name, 0, file.size))
    return members, rejects


def read_members(members: Iterable[Member]) -> Iterator[MemberBytes]:
    """Reads members one at a time, in the order given.

    Raises:
      StorageError: an archive cannot be read any more, or is not the one that was listed.
    """
    for container, group in itertools.groupby(members, key=lambda member: member.container):
        if container.kind == "folder":
            yield from map(_read_file, group)
        else:
            check_unchanged(container)
            yield from read_in_order(container, list(group))


def _read_file(member: Member) -> MemberBytes:
    try:
        with reading.open_file(member.container.path + member.id) as stream:
            data = stream.read(member.size + 1)
    except StorageError as e:
        return MemberBytes(member, None, str(e), damage=True)
    if len(data) != member.size:
        return MemberBytes(member, None, "its size has changed since it was listed", damage=True)
    return MemberBytes(member, data)
