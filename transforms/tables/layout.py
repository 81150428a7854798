"""Where every file of a run's folder lies.

OUTPUT/run.json            settings, model digest, versions; written at launch, never again
OUTPUT/manifest.parquet    the shards
OUTPUT/listings/...        lists of loose images
OUTPUT/scores/source=NAME/BASENAME-DIGEST.parquet     a row per image
OUTPUT/rejects/source=NAME/BASENAME-DIGEST.parquet    a row per rejected record
OUTPUT/metrics.json        OUTPUT/summary.json        summary last: the completion marker
OUTPUT/flags/source=NAME/BASENAME-DIGEST.parquet      OUTPUT/flags.json
OUTPUT/report/...
"""

import hashlib
import os
import re

from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import paths
from odin_beam.transforms.storage.writing import TEMPORARY

RUN = "run.json"
SUMMARY = "summary.json"
METRICS = "metrics.json"
FLAGS = "flags.json"
MANIFEST = "manifest.parquet"
LISTINGS = "listings"
REPORT = "report"
REPORT_PAGE = "report.html"
REPORT_DATA = "data.json"
_SCORES, _REJECTS, _FLAGS = "scores", "rejects", "flags"
# In the order in which they may go: as long as run.json is there, the rest is known to be a run's.
FILES = (FLAGS, SUMMARY, METRICS, MANIFEST, RUN)
FOLDERS = (_SCORES, _REJECTS, LISTINGS, TEMPORARY, _FLAGS, REPORT)

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


def _of_shard(output: str, folder: str, shard: Shard) -> str:
    return paths.join(output, folder, f"source={shard.source}", shard.file_name)


def scores_folder(output: str) -> str:
    """Of the scores of all sources, a table partitioned by source."""
    return paths.join(output, _SCORES)


def rejects_folder(output: str) -> str:
    """Of the rejects of all sources, likewise."""
    return paths.join(output, _REJECTS)


def flags_folder(output: str) -> str:
    """Of the flags of all sources, likewise."""
    return paths.join(output, _FLAGS)


def scores_path(output: str, shard: Shard) -> str:
    """Where the shard's scores are published."""
    return _of_shard(output, _SCORES, shard)


def rejects_path(output: str, shard: Shard) -> str:
    """Where the shard's rejects are published, if it has any."""
    return _of_shard(output, _REJECTS, shard)


def flags_path(output: str, shard: Shard) -> str:
    """Where the shard's flags are published."""
    return _of_shard(output, _FLAGS, shard)


def all_parquet(folder: str) -> str:
    """A glob of every Parquet file below one of the folders."""
    return paths.join(folder, "**.parquet")


def manifest_path(output: str) -> str:
    """Where a run's manifest lies."""
    return paths.join(output, MANIFEST)
