r"""`odin-beam review`: how right the flags are, from a person's labels of a random sample.

    odin-beam top --scores scores --random 100 --csv sample.csv --copy sample/
    odin-beam review --scores scores --labels sample.csv

`--recalibrate FILE` also writes a calibration from the images that were labelled as not foreign, for archives that
differ from the calibration images. The labels that made it do not judge it: `review` leaves them out.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.review import ReviewOptions
from odin_beam.pipeline.launch.run_folder import launched_run, read_flags, refuse_output_file
from odin_beam.pipeline.launch.sampled_sources import sampled_sources
from odin_beam.pipeline.show.next_step import after_review
from odin_beam.pipeline.show.plural import plural
from odin_beam.pipeline.show.review_text import review_text
from odin_beam.transforms.calibration.calibration_file import read_calibration, write_calibration
from odin_beam.transforms.calibration.conformal import CalibrationScores
from odin_beam.transforms.errors import CalibrationError, StorageError
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.ranking.labelled_rows import (
    LabelledRow,
    calibration_sample,
    key_digest,
    labelled_rows,
    labels_digest,
)
from odin_beam.transforms.ranking.review import FOREIGN, Stratum, draw_of, read_labels, review
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import listing


def run(options: ReviewOptions) -> int:
    """Prints what the labels say.

    Raises:
      UsageError: no flags, no labels, or labels of other images.
    """
    launch, shards = launched_run(options.scores)
    flags, problem = read_flags(options.scores, launch, shards, options.name)
    if flags is None:
        named = f" --name {options.name}" if options.name else ""
        raise UsageError(problem or f"{options.scores} has no such flags: run `odin-beam flag{named}` first")
    sources = sampled_sources(options.scores, shards, options.source)
    if options.recalibrate:
        _refuse_output(options, flags)
    rows, left_out = _labelled(options, [shard for shard in shards if shard.source in sources], flags, sources)
    strata = _strata(rows, [flags["sources"][source] for source in sources if source in flags["sources"]])
    found = review(*strata)
    print(review_text(found, flags, sources, left_out))
    if options.recalibrate:
        images = _recalibrate(options, flags, rows, strata, sources)
        print(
            f"\ncalibration: {options.recalibrate}, worth {plural(images, 'image')} of the archive itself\n"
            "these labels moved the threshold, so they cannot judge it: after `flag`, draw others with `top --random`"
        )
    more = 2 * (strata[1].labelled + found.more) if found.more else None
    print(f"\n{after_review(options, more)}")
    return 0


def _refuse_output(options: ReviewOptions, flags: dict[str, Any]) -> None:
    """Checks that nothing but an earlier calibration of `review` is overwritten.

    Raises:
      UsageError: it would be.
    """
    path = options.recalibrate
    refuse_output_file(path, "recalibrate")
    if listing.stat_file(path) is None:
        return
    try:
        ours = "labels" in read_calibration(path).content
    except CalibrationError:
        ours = False
    if not ours or path == flags["calibration"].get("path"):
        raise UsageError(f"--recalibrate {path} exists and is not one that only `review` made: choose another name")


def _labelled(
    options: ReviewOptions, shards: Sequence[Shard], flags: dict[str, Any], sources: Sequence[str]
) -> tuple[list[LabelledRow], int]:
    """The labelled images that judge the flags, and how many do not since they moved the threshold.

    Raises:
      UsageError: there are none, or they are no sample of these flags and sources.
    """
    try:
        labels = read_labels(options.labels)
    except (StorageError, ValueError) as e:
        raise UsageError(f"--labels: {e}") from e
    answered = sum(answer is not None for answer in labels.answers.values())
    if not answered:
        raise UsageError(f"--labels: no image is labelled: write yes or no into the column {FOREIGN}")
    if labels.draws != {draw_of(flags, sources)}:
        raise UsageError(
            "--labels: the images were drawn from other flags or sources than these, so they are no random sample of "
            "them: give the --name and --source that `top` was given, or draw again"
        )
    try:
        rows = labelled_rows(options.scores, shards, labels.answers, options.name)
    except StorageError as e:
        raise UsageError(str(e)) from e
    if len(rows) < answered:
        raise UsageError(
            f"--labels: {answered - len(rows):,} of {plural(answered, 'labelled image')} are not among the flags"
        )
    used = set(flags["calibration"].get("labelled_images", ()))
    judging = [row for row in rows if row.flagged is not None and key_digest(row.key) not in used]
    if not judging:
        raise UsageError("--labels: all of these images moved the threshold, so they cannot judge it: draw others")
    return judging, len(rows) - len(judging)


def _strata(rows: list[LabelledRow], sources: list[dict[str, Any]]) -> tuple[Stratum, Stratum]:
    """The flagged and the unflagged images, with their labels."""
    judged = sum(own["images"] - own["without_score"] - own["without_calibration"] for own in sources)
    flagged = sum(own["flagged"] for own in sources)
    return tuple(
        Stratum(
            images,
            sum(row.flagged == is_flagged for row in rows),
            sum(row.flagged == is_flagged and row.foreign for row in rows),
        )
        for is_flagged, images in ((True, flagged), (False, judged - flagged))
    )


def _recalibrate(
    options: ReviewOptions,
    flags: dict[str, Any],
    rows: list[LabelledRow],
    strata: tuple[Stratum, Stratum],
    sources: Sequence[str],
) -> int:
    """Writes the calibration; returns how many images it is worth.

    Raises:
      UsageError: the labels do not do, or the flags' calibration is gone.
    """
    detector, path = flags["detector"], flags["calibration"]["path"]
    known = [row for row in rows if not row.foreign]
    if not known or any(stratum.images and not stratum.labelled for stratum in strata):
        raise UsageError(
            "--recalibrate: label flagged and unflagged images: the threshold is that of all that are not foreign"
        )
    try:
        earlier = read_calibration(path)
    except CalibrationError as e:
        raise UsageError(f"--recalibrate: the calibration of the flags is needed: {e}") from e
    weights = {
        flagged: stratum.images / max(1, stratum.labelled)
        for flagged, stratum in zip((True, False), strata, strict=True)
    }
    sample = calibration_sample(
        np.array([row.score for row in known]), np.array([weights[bool(row.flagged)] for row in known])
    )
    scores = CalibrationScores.of(ScoreHistogram.of(sample))
    content = {name: value for name, value in earlier.content.items() if name not in ("kind", "version")}
    content |= {
        "recommendation": {
            "detector": detector,
            "default": detector,
            "reason": "thresholds re-calibrated on labelled images of an archive",
            "families": [],
            "comparisons": [],
        },
        "labels": {
            "digest": labels_digest(rows),
            "images": sorted(key_digest(row.key) for row in rows),
            "scores": options.scores,
        },
        "sources": {source: {"role": "in_distribution"} for source in sources},
        "thresholds": {detector: scores.table()},
        "scores": {detector: scores.as_dict()},
        "class_scores": {},
        "rest_scores": {},
    }
    write_calibration(options.recalibrate, content)
    return len(sample)
