r"""`odin-beam tune`: the best temperature and epsilon, the detector to flag by, and thresholds for a classifier.

    odin-beam tune --model classifier.keras --in_distribution 'shards/validation-*.tfrecord' \\
      --output calibration.json

writes `calibration.json` for `score --calibration` and `flag`, two pictures next to it, and `calibration-tuning/`, the
scores of every cell of the grid: the same command resumes there, and another objective needs no new scores.
"""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.tune import TuneOptions, tune_settings
from odin_beam.pipeline.launch import run_folder, sources
from odin_beam.pipeline.launch.class_names import find_class_names
from odin_beam.pipeline.launch.tensorflow_import import import_tensorflow
from odin_beam.pipeline.show.metrics_table import problems
from odin_beam.transforms.calibration.calibration_file import read_calibration
from odin_beam.transforms.detectors.passes import PassTimes, expected_passes
from odin_beam.transforms.errors import CalibrationError
from odin_beam.transforms.fitting.reference import Reference
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.contents.surrogates import Surrogate
from odin_beam.transforms.shards.shard import FeatureNames, Shard
from odin_beam.transforms.storage import listing, reading, writing

if TYPE_CHECKING:
    from odin_beam.pipeline.launch.scoring_run import ScoringRun


def run(options: TuneOptions) -> int:
    """Scores the grid, chooses, and prints what was found; returns the exit code.

    Raises:
      UsageError: before anything is written.
    """
    launched = time.time()
    _refuse_output(options)
    with tempfile.TemporaryDirectory(prefix="odin-beam-listings-") as folder:
        shards = sources.list_shards(options.sources, folder, options.folder, not options.overwrite)
        settings, reference = tune_settings(options)
        shards = [*shards, *surrogate_shards(shards, options.surrogates, settings.features)]
        import_tensorflow()
        return _tune(options, settings, reference, shards, folder, launched)


def _tune(
    options: TuneOptions,
    settings: ScoreSettings,
    reference: Reference | None,
    shards: Sequence[Shard],
    folder: str,
    launched: float,
) -> int:
    import apache_beam as beam

    from odin_beam.pipeline.launch import scoring_run
    from odin_beam.pipeline.launch.first_look import refuse_fitted_images
    from odin_beam.pipeline.runners.beam_options import beam_options
    from odin_beam.pipeline.runners.dataflow import on_dataflow
    from odin_beam.transforms.calibration.calibrate import Calibrate
    from odin_beam.transforms.calibration.calibration_content import CalibrateSettings

    if reference and reference.digests is not None:
        inside = [shard for shard in shards if shard.role == "in_distribution"]
        refuse_fitted_images(inside, folder, settings.features, reference.digests)
    beam_settings = beam_options(options.beam, True, options.accelerator)
    settings = scoring_run.resolve_precision(settings, beam_settings)
    scoring = scoring_run.prepare(
        settings,
        shards,
        options.folder,
        folder,
        options.arguments.command,
        options.overwrite,
        options.check,
        find_class_names(options.arguments, shards),
    )
    settings = scoring.settings
    # The time of a pass on this machine does not predict Dataflow's.
    times = None if on_dataflow(beam_settings) else _estimate(scoring, sum(scoring_run.images_to_do(scoring)))
    calibrate = CalibrateSettings(
        settings,
        options.objective,
        bool(options.surrogates),
        options.per_class,
        options.output,
        times,
        reference.discouraged if reference else (),
    )
    scoring_run.launch(scoring)
    pipeline = beam.Pipeline(options=beam_settings)
    scored = scoring_run.scored_shards(pipeline, scoring, options.accelerator)
    scored | Calibrate(options.folder, calibrate, launched)
    if handed := scoring_run.run(pipeline, scoring):
        print(
            f"{handed}; {options.output} appears when the job is done; then run the same command without --runner "
            "to draw the pictures"
        )
        return 0
    return _report(options)


def surrogate_shards(shards: Sequence[Shard], kinds: Sequence[str], features: FeatureNames) -> list[Shard]:
    """Surrogates of every in-distribution shard, one source for each kind.

    Raises:
      UsageError: one of the user's sources has the name of one of them.
    """
    made = {}
    for kind in kinds:
        name = f"surrogate_{kind}"
        if any(shard.source == name for shard in shards):
            raise UsageError(f"source name {name!r} is reserved for the surrogates: rename the source")
        for shard in shards:
            if shard.role == "in_distribution":
                content = Surrogate(kind, shard.content, features)
                # Two sources may share a shard; its surrogates are the same.
                made[name, shard.path, shard.file_name] = replace(shard, source=name, role="surrogate", content=content)
    return list(made.values())


def _refuse_output(options: TuneOptions) -> None:
    run_folder.refuse_output(options.folder)
    run_folder.refuse_output_file(options.output)
    if listing.stat_file(options.output) is not None:
        try:
            read_calibration(options.output)
        except CalibrationError as e:
            raise UsageError(f"--output exists and is not a calibration: {e}") from e


def _estimate(scoring: "ScoringRun", images: int) -> PassTimes | None:
    """Prints how much there is to score, and how long one process takes for it, measured on one batch."""
    if scoring.scorer is None:
        return None
    settings = scoring.settings
    shape = (settings.batch_size, *scoring.scorer.classifier.input_shape)
    times = scoring.scorer.time_passes(np.random.default_rng(0).random(shape, np.float32))
    passes = expected_passes(settings.odin)
    seconds = images * (passes.forward * times.forward + passes.gradient * times.gradient)
    print(
        f"{len(settings.odin.cells)} cells: {passes.forward} forward and {passes.gradient} gradient passes per image, "
        f"about {_duration(seconds)} for {images:,} images in one process",
        file=sys.stderr,
    )
    return times


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _report(options: TuneOptions) -> int:
    """Draws and prints what was found."""
    from odin_beam.pipeline.show.calibration_text import calibration_text
    from odin_beam.pipeline.show.next_step import after_tune
    from odin_beam.pipeline.show.tune_figures import epsilon_figure, grid_figure, png

    summary = run_folder.read_summary(options.folder)
    for line in problems(summary):
        print(line)
    if not summary["complete"]:
        print(f"no calibration without these shards; the others' scores are in {options.folder}")
        return 3
    content = json.loads(reading.read_bytes(options.output))
    stem = options.output.removesuffix(".json")
    for name, figure in (("grid", grid_figure), ("epsilon", epsilon_figure)):
        writing.write_bytes(f"{stem}-{name}.png", png(figure(content)))
    print(calibration_text(content))
    print(f"\ncalibration: {options.output}; pictures: {stem}-grid.png, {stem}-epsilon.png")
    share = summary["rejected_share"]
    if share > options.max_rejected:
        print(f"{share:.2%} of the records were rejected, more than --max_rejected {options.max_rejected:g}")
        return 3
    print(after_tune(options.arguments))
    return 0
