"""Where every file of a run's folder lies."""

import hashlib
import os
import re

from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import paths

# File systems take names of 255 bytes; ours adds a digest, and a temporary one 33 bytes more.
_MAX_BASE_BYTES = 180


def scores_file_name(path: str, first: int | None = None) -> str:
    """Base name of a shard's files: its own, and 16 hex digits of its full path's digest.

    The digest keeps shards of one base name in two folders apart. A name too long to add to is cut.

    Args:
      path: of the shard; of a virtual one the pattern that it is a part of.
      first: index of a virtual shard's first image.
    """
    base, digest = os.path.basename(path), hashlib.sha256(path.encode()).hexdigest()[:16]
    if first is not None:
        # A pattern may hold characters that file names had better not.
        base = f"{re.sub(r'[^A-Za-z0-9_.]+', '_', base).strip('_.')}-{first:09d}"
    return f"{base.encode()[:_MAX_BASE_BYTES].decode(errors='ignore')}-{digest}.parquet"


def scores_path(output: str, shard: Shard) -> str:
    """Where the shard's scores are published."""
    return paths.join(output, "scores", f"source={shard.source}", shard.output_name)


def rejects_path(output: str, shard: Shard) -> str:
    """Where the shard's rejects are published, if it has any."""
    return paths.join(output, "rejects", f"source={shard.source}", shard.output_name)


FLAGS = "flags.json"


def flags_path(output: str, shard: Shard) -> str:
    """Where the shard's flags are published."""
    return paths.join(output, "flags", f"source={shard.source}", shard.output_name)


def manifest_path(output: str) -> str:
    """Where a run's manifest lies."""
    return paths.join(output, "manifest.parquet")
