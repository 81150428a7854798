"""Lists image files in folders, behind globs and in archives, and reads them one at a time.

The name says what kind a file is: `.zip`, `.tar`, `.tar.gz` and `.tgz` are archives (whether a tar is compressed, its
first bytes say), everything else is a loose file. Whether it is an image is not decided here.

* An id is the path inside the archive, or relative to the folder or to the fixed part of the glob, always with `/`. If
  several arguments stand for loose files, their ids are relative to the folder that these have in common, so that the
  ids and the class names stay distinct.
* Hidden files (anything below `.git`) and litter (`Thumbs.db`, `__MACOSX`) are skipped silently: `storage.litter`.
* Nothing is unpacked to disk, so a hostile name is harmless. A leading `/` or `./` is dropped from it; names with
  `..`, a drive letter or control characters are rejected, as are links, devices and encrypted members. Links in
  folders are followed.
* No more than `limits.MAX_RECORD_BYTES` are read from a file, whatever size it declares.

Costs: members of a zip or an uncompressed tar are read in place. A compressed tar can only be streamed: once to list
it, and then for every output shard from its beginning to the shard's last member, so N shards decompress it about N / 2
times. If that takes too long, decompress it first (`gunzip`). Members whose order in the archive differs from the order
of their ids pass through an anonymous temporary file as large as the output shard: so an archive on remote storage is
read forwards, and memory stays bounded.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.ingest.archives import archive_of, check_unchanged, list_archive, read_in_order
from odin_beam.transforms.ingest.members import (
    Container,
    Member,
    MemberBytes,
    Reject,
    printable,
    size_problem,
)
from odin_beam.transforms.storage import reading
from odin_beam.transforms.storage.matched_files import Matched

_TFRECORD_NAME = re.compile(r"\.tfrec(ords?)?(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE)
_TAR_NAMES = (".tar", ".tar.gz", ".tgz")
_OTHER_ARCHIVES = (".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".7z", ".rar")


def with_common_root(arguments: Sequence[Matched]) -> list[Matched]:
    """The same files; if several arguments stand for loose files, these are relative to their common folder."""
    loose = [argument for argument in arguments if not all(is_archive(file.path) for file in argument.files)]
    roots = {argument.root for argument in loose}
    if len(roots) < 2:
        return list(arguments)
    levels = zip(*(root.split("/") for root in roots), strict=False)
    common = "".join(f"{names[0]}/" for names in itertools.takewhile(lambda names: len(set(names)) == 1, levels))
    return [replace(argument, root=common) if argument in loose else argument for argument in arguments]


def is_archive(path: str) -> bool:
    """Whether a file is an archive, judging by its name."""
    return path.lower().endswith((".zip", *_TAR_NAMES, *_OTHER_ARCHIVES))


def is_tfrecord(path: str) -> bool:
    """Whether a file is TFRecord, judging by its name."""
    return bool(_TFRECORD_NAME.search(path))


def list_members(matched: Matched) -> tuple[list[Member], list[Reject]]:
    """The files behind an argument, sorted by path, with each archive's members in its place; and the rejects.

    Raises:
      StorageError: an archive cannot be read; damaged bytes do not raise.
    """
    folder = Container("folder", matched.root)
    members, rejects = [], []
    for file in matched.files:
        name = file.path.removeprefix(matched.root)
        if file.path.lower().endswith((".zip", *_TAR_NAMES)):
            archived, refused = list_archive(archive_of(file))
            members += archived
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
    """Reads members one at a time, in the given order.

    Raises:
      StorageError: an archive can no longer be read, or has changed since it was listed.
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
