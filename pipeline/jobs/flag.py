r"""`odin-beam flag`: `is_ood` for every image of a `score` run, from a calibration of `tune`; no TensorFlow, no GPU.

    odin-beam flag --scores scores --calibration calibration.json --tpr 0.95

writes `scores/flags/`, Parquet, and `scores/flags.json`. Another threshold is another run of this job, and scores
nothing again.
"""

import time
from typing import Any

import apache_beam as beam

from odin_beam.pipeline.flags.options import FlagOptions, UsageError, beam_options
from odin_beam.pipeline.launch.progress import show_progress
from odin_beam.pipeline.launch.run_folder import launched_run, read_json
from odin_beam.pipeline.runners.dataflow import handed_over
from odin_beam.pipeline.runners.local_workers import run_pipeline
from odin_beam.pipeline.show.flags_text import flags_text
from odin_beam.transforms.calibration.calibration_file import SHARED_SETTINGS, Calibration, read_calibration
from odin_beam.transforms.calibration.flag_rule import FlagRule
from odin_beam.transforms.calibration.flag_shards import FlagShards
from odin_beam.transforms.calibration.flags_summary import FlagFacts, scores_state
from odin_beam.transforms.errors import CalibrationError
from odin_beam.transforms.scoring.check_finished import CheckFinished
from odin_beam.transforms.shards.manifest import ReadManifest
from odin_beam.transforms.storage import listing, paths, writing
from odin_beam.transforms.tables.layout import FLAGS


def run(options: FlagOptions) -> int:
    """Flags every image that is scored, and prints how many; exit code 3 where shards of the manifest are missing.

    Raises:
      UsageError: no output folder of `score`, or scores that the calibration does not hold for.
    """
    started, output = time.time(), options.scores
    launch, shards = launched_run(output)
    try:
        calibration = read_calibration(options.calibration)
    except CalibrationError as e:
        raise UsageError(f"--calibration: {e}") from e
    refuse_other_scores(options, launch["settings"], calibration)
    rule = flag_rule(options, calibration)
    roles = {shard.source: shard.role for shard in shards}
    facts = FlagFacts(
        _calibration_facts(options, calibration), options.per_class, scores_state(launch["settings"], shards), started
    )
    # First the mark of completion: flags of two rules beside each other must not look like one result.
    writing.delete([paths.join(output, FLAGS)])
    writing.delete_folder(paths.join(output, "flags"))

    pipeline = beam.Pipeline(options=beam_options(options.beam))
    checked = pipeline | ReadManifest(output) | CheckFinished(output, launch["settings"])
    missing = checked.todo | "Missing" >> beam.Map(lambda shard: (shard, "not scored"))
    {"finished": checked.finished, "failed": missing} | FlagShards(output, rule, roles, facts)
    with show_progress("flagging", len(shards), "shards", lambda: _state(output, len(shards))):
        result = run_pipeline(pipeline)
        if handed := handed_over(result):
            print(f"{handed}; {paths.join(output, FLAGS)} appears when the job is done")
            return 0
        result.wait_until_finish()

    found = read_json(output, FLAGS)
    print(flags_text(found))
    print(f"\nflags: {paths.join(output, 'flags')}  ({found['seconds']:.0f} s)")
    return 0 if found["complete"] else 3


def _state(output: str, shards: int) -> tuple[int, str]:
    done = len(listing.list_files(paths.join(output, "flags", "**.parquet")))
    return done, f"{done:,} of {shards:,} shards"


def refuse_other_scores(options: FlagOptions, settings: dict[str, Any], calibration: Calibration) -> None:
    """Sees that the scores are of the kind that the calibration has.

    Raises:
      UsageError: of another model, fed in another way, at another temperature or epsilon, or without the detector.
    """
    found, detector = calibration.settings, options.detector
    if settings["model_digest"] != found["model_digest"]:
        raise UsageError(f"{options.scores} was scored by another model than {options.calibration} is of")
    for name in SHARED_SETTINGS:
        if settings.get(name) != found[name]:
            raise UsageError(
                f"{options.scores} was scored with {name} {settings.get(name)}, but the calibration has {found[name]}: "
                "score with --calibration"
            )
    if detector == "odin":
        for name in ("temperature", "epsilon"):
            if settings["odin"][name] != found["odin"][name]:
                raise UsageError(
                    f"{options.scores} was scored at {name} {settings['odin'][name]:g}, but the calibration has "
                    f"{found['odin'][name]:g}: score with --calibration, or give another --detector"
                )
    if detector not in calibration.scores:
        raise UsageError(
            f"--detector {detector}: the calibration has {', '.join(calibration.scores)}; such a head does not give it"
        )
    if detector not in settings["detectors"]:
        raise UsageError(f"--detector {detector}: {options.scores} was scored with --detectors without it")


def flag_rule(options: FlagOptions, calibration: Calibration) -> FlagRule:
    """When an image is flagged.

    Raises:
      UsageError: scores by class are wanted, and there are none.
    """
    by_class = calibration.class_scores.get(options.detector, {}) if options.per_class else {}
    if options.per_class and not by_class:
        raise UsageError(
            "--per_class: the calibration has no class of at least 100 images, or `tune` had no --per_class"
        )
    return FlagRule(options.detector, calibration.scores[options.detector], by_class, options.tpr, options.fdr)


def _calibration_facts(options: FlagOptions, calibration: Calibration) -> dict[str, Any]:
    inside = [name for name, own in calibration.content["sources"].items() if own["role"] == "in_distribution"]
    return {
        "path": options.calibration,
        "images": calibration.scores[options.detector].count,
        "sources": inside,
        "temperature": calibration.temperature,
        "epsilon": calibration.epsilon,
    }
