"""Before `score --from_features` starts: whether the features serve, and what is computed from them."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from apache_beam.utils.shared import Shared

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.from_features import FromFeaturesOptions
from odin_beam.pipeline.flags.groups import refuse_unknown_sources
from odin_beam.pipeline.flags.reference import referenced
from odin_beam.pipeline.launch import run_folder
from odin_beam.pipeline.launch.scoring_run import ScoringRun, model_errors
from odin_beam.transforms.detectors.registry import ALL
from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.scoring.feature_scorer import FeatureScorer
from odin_beam.transforms.scoring.score_features import KeptFeatures
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.settings_json import OtherVersion
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import listing, paths
from odin_beam.transforms.storage.reading import open_file
from odin_beam.transforms.tables import layout

_FLOAT16 = "features are float16: scores move by thousandths of their standard deviation"


def prepare(options: FromFeaturesOptions, folder: str) -> tuple[ScoringRun, KeptFeatures, bool]:
    """The run that is ready to be launched, the one that kept the features, and whether that was calibrated.

    Args:
      options: of the command line.
      folder: local, for lists of images.

    Raises:
      UsageError: the features do not serve, or the reference or the output do not fit; nothing was written.
    """
    launch, shards = run_folder.launched_run(options.folder)
    kept = KeptFeatures(options.folder, launch["settings"])
    summary = _refuse_useless(options, kept)
    refuse_unknown_sources(options.groups, shards)
    settings = _settings(options, kept, launch)
    if options.overwrite:
        run_folder.refuse_overwriting(options.output)
    else:
        run_folder.refuse_other_settings(options.output, settings.identity())
    shared = Shared()
    with model_errors():
        try:
            scorer = shared.acquire(lambda: FeatureScorer(settings, kept.folder))
        except StorageError as e:
            raise UsageError(str(e)) from e
    copied = [name for name in settings.detectors if not ALL[name].takes_features]
    earlier = summary.get("without_scores") or {}
    unavailable = scorer.unavailable | {name: earlier[name] for name in copied if name in earlier}
    warnings = [text for text in summary.get("warnings", []) if isinstance(text, str) and text != _FLOAT16]
    warnings += [_FLOAT16] if kept.dtype == "float16" else []
    for line in [*(f"{name}: {why}; the column is null" for name, why in unavailable.items()), *warnings]:
        print(line, file=sys.stderr)
    _fetch_listings(options.folder, folder)
    scoring = ScoringRun(
        settings,
        options.output,
        shards,
        folder,
        options.arguments.command,
        options.overwrite,
        _expected(options.output, shards, summary["sources"]),
        shared,
        None,
        warnings,
        unavailable,
    )
    return scoring, kept, summary["calibrated"]


def _refuse_useless(options: FromFeaturesOptions, kept: KeptFeatures) -> dict[str, Any]:
    """The summary of the run that kept the features.

    Raises:
      UsageError: it kept none, or is not finished, or is to be written over.
    """
    folder = options.folder
    if kept.dtype is None:
        raise UsageError(f"--from_features {folder} has no features: `score --features float32` keeps them")
    if _same_folder(folder, options.output):
        raise UsageError(f"--output {options.output}: choose another folder than that of --from_features")
    summary = run_folder.read_facts(folder, layout.SUMMARY)
    if summary is None or not summary["complete"]:
        raise UsageError(f"--from_features {folder} is not finished: run its `score` command again first")
    return summary


def _same_folder(one: str, other: str) -> bool:
    local = paths.is_local(one) and paths.is_local(other)
    return os.path.realpath(one) == os.path.realpath(other) if local else one.rstrip("/") == other.rstrip("/")


def _settings(options: FromFeaturesOptions, kept: KeptFeatures, launch: dict[str, Any]) -> ScoreSettings:
    """What to compute, and from which features.

    Raises:
      UsageError: the reference does not fit, or a detector is unknown or neither copied nor computed.
    """
    try:
        earlier = ScoreSettings.from_identity(
            launch["model"],
            kept.identity,
            paths.join(options.folder, layout.RUN),
            launch.get("reference"),
            run_folder.class_names(options.folder, launch),
        )
    except OtherVersion as e:
        raise UsageError(str(e)) from e
    possible = tuple(name for name, row in ALL.items() if row.takes_features or name in earlier.detectors)
    settings, _ = referenced(earlier, options.reference, options.detectors or possible)
    if absent := [name for name in settings.detectors if name not in possible]:
        raise UsageError(
            f"--detectors {', '.join(absent)}: they need the images, and {options.folder} has no scores of them"
        )
    return replace(settings, kept_features=None, features_run=kept.digest)


def _fetch_listings(source: str, folder: str) -> None:
    """Copies a run's lists of images to a local folder, from which the launch publishes them."""
    target = os.path.join(folder, layout.LISTINGS)
    for stat in listing.list_files(paths.join(source, layout.LISTINGS, "*")):
        os.makedirs(target, exist_ok=True)
        with open_file(stat.path) as stream, open(os.path.join(target, os.path.basename(stat.path)), "wb") as copy:
            shutil.copyfileobj(stream, copy)


def _expected(output: str, shards: list[Shard], sources: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Images by scores file, for the display of progress: a source's shards are taken to be of equal size."""
    counts = {name: round(found["scored"] / max(1, found["shards"])) for name, found in sources.items()}
    return {layout.scores_path(output, shard): counts.get(shard.source, 0) for shard in shards}
