"""Flags that group out-of-distribution sources, shared by the jobs that compute metrics."""

import argparse
from collections.abc import Mapping, Sequence

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.parser import Parser, items
from odin_beam.transforms.shards.shard import Shard

_GROUPS = {
    "near": "classes unlike the known ones in images like the known ones, such as CIFAR-100 for CIFAR-10",
    "far": "images of another kind, such as digits for photographs",
}


def add_group_flags(parser: Parser) -> None:
    """Adds `--near` and `--far`."""
    for group, meaning in _GROUPS.items():
        parser.add_list(
            f"--{group}", "NAME,...", f"out-of-distribution sources to average the metrics over as {group}: {meaning}"
        )


def group_options(arguments: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """Group -> its sources, for the groups given.

    Raises:
      UsageError: a source is in both groups.
    """
    groups = {group: tuple(dict.fromkeys(items(getattr(arguments, group)))) for group in _GROUPS}
    if both := set(groups["near"]) & set(groups["far"]):
        raise UsageError(f"{min(both)} is in both --near and --far")
    return {group: sources for group, sources in groups.items() if sources}


def refuse_unknown_sources(groups: Mapping[str, Sequence[str]], shards: Sequence[Shard]) -> None:
    """Checks that groups consist of out-of-distribution sources of the run, without noise.

    Raises:
      UsageError: they do not.
    """
    known = {shard.source: shard for shard in shards if shard.role == "out_distribution"}
    for group, sources in groups.items():
        for source in sources:
            if source not in known:
                raise UsageError(
                    f"--{group} {source}: not an out-of-distribution source; there are {', '.join(known) or 'none'}"
                )
            if known[source].path.startswith("noise:"):
                raise UsageError(f"--{group} {source}: noise is a sanity check, neither near nor far")
