"""The path of every file in a run's folder.

OUTPUT/run.json            settings, model digest, versions; written at launch, never again
OUTPUT/manifest.parquet    the shards
OUTPUT/listings/...        lists of loose images
OUTPUT/scores/source=NAME/BASENAME-DIGEST.parquet     a row per image
OUTPUT/rejects/source=NAME/BASENAME-DIGEST.parquet    a row per rejected record
OUTPUT/features/source=NAME/BASENAME-DIGEST.parquet   of a fit, in place of scores; of other runs beside them, if kept
OUTPUT/last_layer.npz      beside features; OUTPUT/statistics/... of a fit that is unfinished
OUTPUT/metrics.json        OUTPUT/summary.json        summary last: the completion marker
OUTPUT/flags/source=NAME/BASENAME-DIGEST.parquet      OUTPUT/flags.json; with a name, flags-NAME in place of flags
OUTPUT/top.json            the images that `top` was last asked for
OUTPUT/compare-REFERENCE+NEW.json                     one per pair of batches; -DIGEST if the new one is of another run
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
# What `top` found last.
TOP = "top.json"
# Flags with a name, beside those without one, and what their names are.
NAMED_FLAGS = "flags-*"
FLAGS_NAME = re.compile(r"\w{1,40}", re.ASCII)
# Comparisons, one per pair of batches.
COMPARISONS = "compare-*.json"
MANIFEST = "manifest.parquet"
LISTINGS = "listings"
REPORT = "report"
REPORT_PAGE = "report.html"
REPORT_DATA = "data.json"
LAST_LAYER = "last_layer.npz"
# The tables that a run may commit its shards to.
SCORES, FEATURES = "scores", "features"
_REJECTS, _FLAGS, _STATISTICS = "rejects", "flags", "statistics"
# The order in which files may be removed: while run.json exists, the rest is known to belong to a run.
FILES = (FLAGS, TOP, SUMMARY, METRICS, LAST_LAYER, MANIFEST, RUN)
FOLDERS = (SCORES, FEATURES, _STATISTICS, _REJECTS, LISTINGS, TEMPORARY, _FLAGS, REPORT)

# File systems allow names of 255 bytes; we append a digest, and temporary names are 33 bytes longer.
_MAX_BASE_BYTES = 180


def scores_file_name(path: str, first: int | None = None) -> str:
    """Base name of a shard's files: the shard's base name and 16 hex digits of its full path's digest.

    The digest distinguishes shards with the same base name in different folders. Overlong names are truncated. What
    would begin with `_` or `.` begins with `shard`: Arrow, Spark, Hive and DuckDB ignore files of such names.

    Args:
      path: of the shard; for a virtual shard, the pattern that it is part of.
      first: index of a virtual shard's first image.
    """
    base, digest = os.path.basename(path), hashlib.sha256(path.encode()).hexdigest()[:16]
    if first is not None:
        # A pattern may contain characters that are unsafe in file names.
        base = f"{re.sub(r'[^A-Za-z0-9_.]+', '_', base).strip('_.')}-{first:09d}"
    if base.startswith(("_", ".")):
        base = f"shard{base}"
    return f"{base.encode()[:_MAX_BASE_BYTES].decode(errors='ignore')}-{digest}.parquet"


def _of_shard(output: str, folder: str, shard: Shard) -> str:
    return paths.join(output, folder, f"source={shard.source}", shard.file_name)


def rows_folder(output: str, table: str) -> str:
    """Folder of `SCORES` or `FEATURES` of all sources, a table partitioned by source."""
    return paths.join(output, table)


def scores_folder(output: str) -> str:
    """Folder of the scores of all sources."""
    return rows_folder(output, SCORES)


def rejects_folder(output: str) -> str:
    """Folder of the rejects of all sources, partitioned likewise."""
    return paths.join(output, _REJECTS)


def flags_folder(output: str, name: str | None = None) -> str:
    """Folder of the flags of all sources, partitioned likewise; those of that name, if any."""
    return paths.join(output, f"{_FLAGS}-{name}" if name else _FLAGS)


def flags_file(name: str | None = None) -> str:
    """Name of the file that marks the flags as complete."""
    return f"{_FLAGS}-{name}.json" if name else FLAGS


def comparison_file(reference: str, new: str, run: str | None = None) -> str:
    """Name of the file with a comparison of two sources.

    Args:
      reference: name of the source.
      new: name of the source.
      run: folder of the run that the new source is of, if that is not the reference's.
    """
    digest = "" if run is None else f"-{hashlib.sha256(run.encode()).hexdigest()[:8]}"
    return f"compare-{reference[: _MAX_BASE_BYTES // 2]}+{new[: _MAX_BASE_BYTES // 2]}{digest}.json"


def rows_path(output: str, shard: Shard, table: str) -> str:
    """The path where the shard's rows of that table are published."""
    return _of_shard(output, table, shard)


def scores_path(output: str, shard: Shard) -> str:
    """The path where the shard's scores are published."""
    return rows_path(output, shard, SCORES)


def rejects_path(output: str, shard: Shard) -> str:
    """The path where the shard's rejects are published, if it has any."""
    return _of_shard(output, _REJECTS, shard)


def flags_path(output: str, shard: Shard, name: str | None = None) -> str:
    """The path where the shard's flags are published."""
    return paths.join(flags_folder(output, name), f"source={shard.source}", shard.file_name)


def all_parquet(folder: str) -> str:
    """A glob for all Parquet files below one of these folders."""
    return paths.join(folder, "**.parquet")


def manifest_path(output: str) -> str:
    """The path of a run's manifest."""
    return paths.join(output, MANIFEST)


def statistics_folder(output: str) -> str:
    """Folder of what an unfinished fit has computed from its features."""
    return paths.join(output, _STATISTICS)


def last_layer_path(output: str) -> str:
    """The path of the weights that make logits of a run's features."""
    return paths.join(output, LAST_LAYER)
