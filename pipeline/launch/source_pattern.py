"""One `[NAME=]PATTERN` of the command line, and what a kind of source is."""

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from odin_beam.transforms.shards.shard import Shard

SOURCE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


def leading_name(pattern: str) -> str | None:
    """The name that a pattern begins with, such as `cifar10` of `cifar10:3.0.2/test`; None if it begins otherwise."""
    found = SOURCE_NAME.match(pattern)
    return found[0] if found else None


@dataclass(frozen=True)
class SourcePattern:
    """One `[NAME=]PATTERN`.

    Attributes:
      name: the source's NAME; if none was given, its role, or the distribution for noise, or the data set for TFDS.
      role: `in_distribution`, `out_distribution` or `input`.
      pattern: without the prefix of its kind; globs and files made absolute.
      kind: the prefix; empty for a glob of TFRecord files.
      given: the pattern as the user wrote it; empty if that is `pattern`. Two ways to write one pattern are equal.
    """

    name: str
    role: str
    pattern: str
    kind: str = ""
    given: str = field(default="", compare=False)

    @property
    def roots(self) -> tuple[str, str]:
        """What absolute paths begin with, and what stands there in the pattern as given; the rest is the same.

        photos/*.jpg in /data    -> ("/data/", "")
        ../photos/*.jpg          -> ("/", "../")
        """
        given = self.given.rstrip("/")
        if given in ("", self.pattern):
            return "", ""
        absolute, written = self.pattern.split("/"), given.split("/")
        pairs = zip(reversed(absolute), reversed(written), strict=False)
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        roots = ["/".join(parts[: len(parts) - same]) for parts in (absolute, written)]
        if not same:
            return roots[0], roots[1]
        return f"{roots[0]}/", f"{roots[1]}/" if len(written) > same else ""

    @property
    def text(self) -> str:
        """The PATTERN, complete with its prefix."""
        return f"{self.kind}:{self.pattern}" if self.kind else self.pattern


@dataclass(frozen=True)
class SourceOptions:
    """The sources of a job.

    Attributes:
      patterns: in the order given, without duplicates.
      noise_count: images per `noise:` source.
      tfds_data_dir: where `tfds:` sources are prepared, absolute.
      workers_elsewhere: whether the workers run elsewhere and cannot reach this machine's files.
    """

    patterns: tuple[SourcePattern, ...]
    noise_count: int = 10_000
    tfds_data_dir: str = ""
    workers_elsewhere: bool = False


@dataclass(frozen=True)
class Listing:
    """What a lister needs besides the pattern.

    Attributes:
      options: of all sources.
      folder: local; lists of images are written below it.
      output: the run's folder, if there is one: files in it are never inputs, even if a glob matches them.
      resumes: whether what the folder holds of an earlier run is to be continued.
      seen: paths of loose files that earlier patterns have listed, by source.
      left_out: paths of files beside them that a pattern does not match, by source; another one may.
    """

    options: SourceOptions
    folder: str
    output: str | None = None
    resumes: bool = True
    seen: dict[str, set[str]] = field(default_factory=dict)
    left_out: dict[str, set[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceKind:
    """A kind of source: one file in `source_kinds`, which defines it as `KIND`.

    Attributes:
      prefix: what stands before the colon of a PATTERN; empty for a plain glob.
      step: place in the help.
      usage: the PATTERN as the help spells it.
      help: what it is.
      shards: the shards of a pattern; raises `UsageError` if it matches nothing or is invalid.
      is_path: whether the pattern is a path, to be made absolute.
      default_name: pattern -> what the source is called unless it is named; None for its role.
      worker_path: (flag, path) that the workers read, or None.
    """

    prefix: str
    step: int
    usage: str
    help: str
    shards: Callable[[SourcePattern, Listing], Iterator[Shard]]
    is_path: bool = True
    default_name: Callable[[str], str | None] = lambda pattern: None
    worker_path: Callable[[SourcePattern, SourceOptions], tuple[str, str] | None] = lambda source, options: None
