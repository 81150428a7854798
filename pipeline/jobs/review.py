r"""`odin-beam review`: how right the flags are, from a person's labels of a random sample.

    odin-beam top --scores scores --random 100 --csv sample.csv --copy sample/
    odin-beam review --scores scores --labels sample.csv

`--recalibrate FILE` also writes a calibration from the images that were labelled as not foreign, for archives that
differ from the calibration images. The labels that made it do not judge it: `review` leaves them out.
"""

from typing import Any

import numpy as np

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.review import ReviewOptions
from odin_beam.pipeline.launch.run_folder import launched_run, read_flags
from odin_beam.pipeline.show.plural import plural
from odin_beam.pipeline.show.review_text import review_text
from odin_beam.transforms.calibration.calibration_file import read_calibration, write_calibration
from odin_beam.transforms.calibration.conformal import CalibrationScores
from odin_beam.transforms.calibration.flags_summary import archive_sources
from odin_beam.transforms.errors import CalibrationError, StorageError
from odin_beam.transforms.metrics.score_histogram import ScoreHistogram
from odin_beam.transforms.ranking.labelled_rows import (
    LabelledRow,
    calibration_sample,
    key_digest,
    labelled_rows,
    labels_digest,
)
from odin_beam.transforms.ranking.review import FOREIGN, Stratum, read_labels, review


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
    roles = {shard.source: shard.role for shard in shards}
    if options.source is not None and options.source not in roles:
        raise UsageError(f"--source {options.source}: {options.scores} has no such source, only {', '.join(roles)}")
    sources = archive_sources(roles) if options.source is None else [options.source]
    rows, left_out = _labelled(options, [shard for shard in shards if shard.source in sources], flags)
    strata = _strata(rows, [flags["sources"][source] for source in sources if source in flags["sources"]])
    print(review_text(review(*strata), flags, sources, left_out))
    if options.recalibrate:
        images = _recalibrate(options, flags, rows, strata)
        print(f"\ncalibration: {options.recalibrate}, worth {plural(images, 'image')} of the archive itself")
        named = f" --name {options.name}" if options.name else ""
        print(
            f"next: odin-beam flag --scores {options.scores}{named} --calibration {options.recalibrate}, then draw "
            "another sample with `top --random`: these labels moved the threshold, so they cannot judge it"
        )
        return 0
    print(f"\n{_next_step(options, strata)}")
    return 0


def _labelled(options: ReviewOptions, shards: list, flags: dict[str, Any]) -> tuple[list[LabelledRow], int]:
    """The labelled images that judge the flags, and how many do not since they moved the threshold.

    Raises:
      UsageError: there are none, or some belong to other scores.
    """
    try:
        labels = read_labels(options.labels)
        rows = labelled_rows(options.scores, shards, labels, options.name)
    except (StorageError, ValueError) as e:
        raise UsageError(f"--labels {options.labels}: {e}") from e
    answered = sum(answer is not None for answer in labels.values())
    if not answered:
        raise UsageError(f"--labels {options.labels}: no image is labelled: write yes or no into its column {FOREIGN}")
    if len(rows) < answered:
        raise UsageError(
            f"--labels {options.labels}: {answered - len(rows):,} of {plural(answered, 'labelled image')} are not "
            "among the flags of these sources: give the --source and --scores that `top` was given"
        )
    used = set(flags["calibration"].get("labelled_images", ()))
    judging = [row for row in rows if row.flagged is not None and key_digest(row.key) not in used]
    if not judging:
        raise UsageError(
            f"--labels {options.labels}: all of these images moved the threshold, so they cannot judge it: draw others "
            "with `top --random`"
        )
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


def _next_step(options: ReviewOptions, strata: tuple[Stratum, Stratum]) -> str:
    found = review(*strata)
    run = f"--scores {options.scores}" + (f" --name {options.name}" if options.name else "")
    if found.more:
        count = 2 * (strata[1].labelled + found.more)
        return f"next: odin-beam top {run} --random {count} --csv more.csv: it contains the images labelled so far"
    return f"next: odin-beam report {run.partition(' --name')[0]}, or another rate: odin-beam flag {run} --tpr 0.99"


def _recalibrate(
    options: ReviewOptions, flags: dict[str, Any], rows: list[LabelledRow], strata: tuple[Stratum, Stratum]
) -> int:
    """Writes the calibration; returns how many images it is worth.

    Raises:
      UsageError: the labels do not do, or the flags' calibration is gone.
    """
    detector, path = flags["detector"], flags["calibration"]["path"]
    known = [row for row in rows if not row.foreign]
    if not strata[1].labelled or not known:
        raise UsageError(
            "--recalibrate: label unflagged images, too: the threshold is that of images that are not foreign"
        )
    try:
        earlier = read_calibration(path)
    except CalibrationError as e:
        raise UsageError(f"--recalibrate: the calibration of the flags is needed: {e}") from e
    weights = {True: strata[0].images / max(1, strata[0].labelled), False: strata[1].images / strata[1].labelled}
    sample = calibration_sample(
        np.array([row.score for row in known]), np.array([weights[bool(row.flagged)] for row in known])
    )
    histogram = ScoreHistogram()
    histogram.add(sample)
    scores = CalibrationScores.of(histogram)
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
        "thresholds": {detector: scores.table()},
        "scores": {detector: scores.as_dict()},
        "class_scores": {},
        "rest_scores": {},
    }
    write_calibration(options.recalibrate, content)
    return len(sample)
