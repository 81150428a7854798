r"""`odin-beam flag`: `is_ood` for every image of a `score` run, from a calibration of `tune`; no TensorFlow, no GPU.

    odin-beam flag --scores scores --calibration calibration.json --tpr 0.95

writes `scores/flags/`, Parquet, and `scores/flags.json`. For a different threshold, run this job again;
nothing is rescored.
"""

import time
from dataclasses import replace
from typing import Any

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.flag import FlagOptions
from odin_beam.pipeline.launch.progress import show_progress
from odin_beam.pipeline.launch.run_folder import flags_detector, launched_run, read_facts
from odin_beam.pipeline.show.flags_text import flags_text
from odin_beam.pipeline.show.next_step import after_flag
from odin_beam.transforms.calibration.calibration_file import SHARED_SETTINGS, Calibration, read_calibration
from odin_beam.transforms.calibration.flag_rule import FlagRule
from odin_beam.transforms.calibration.flags_summary import FlagFacts
from odin_beam.transforms.detectors.registry import FITTED_DETECTORS
from odin_beam.transforms.errors import CalibrationError
from odin_beam.transforms.settings_json import to_json
from odin_beam.transforms.storage import listing, paths, writing
from odin_beam.transforms.tables import layout


def run(options: FlagOptions) -> int:
    """Flags every scored image, and prints how many; exit code 3 if shards of the manifest are missing.

    Raises:
      UsageError: not an output folder of `score`, or scores that the calibration does not apply to.
    """
    started, output = time.time(), options.scores
    launch, shards = launched_run(output)
    try:
        calibration = read_calibration(options.calibration)
    except CalibrationError as e:
        raise UsageError(f"--calibration: {e}") from e
    if options.detector is None:
        options = replace(options, detector=calibration.recommended)
        print(f"detector: {calibration.recommended}, recommended by {options.calibration}")
    refuse_other_scores(options, launch["settings"], calibration)
    refuse_other_detector(options)
    rule = flag_rule(options, calibration)
    facts = FlagFacts(_calibration_facts(options, calibration), options.per_class, started)

    import apache_beam as beam

    from odin_beam.pipeline.runners.beam_options import beam_options
    from odin_beam.pipeline.runners.submit import submit
    from odin_beam.transforms.calibration.flag_shards import FlagShards
    from odin_beam.transforms.scoring.check_finished import ReadFinished

    pipeline = beam.Pipeline(options=beam_options(options.beam))
    # The completion marker goes first, so that flags of two rules never look like one result.
    file, folder = layout.flags_file(options.name), layout.flags_folder(output, options.name)
    writing.delete([paths.join(output, file)])
    writing.delete_folder(folder)
    pipeline | ReadFinished(output) | FlagShards(output, rule, facts, launch["settings"], options.name)
    progress = show_progress("flagging", len(shards), "shards", lambda: _state(folder, len(shards)))
    if handed := submit(pipeline, progress):
        print(f"{handed}; {paths.join(output, file)} appears when the job is done")
        return 0

    found = read_facts(output, file, layout.FLAGS)
    print(flags_text(found))
    print(f"\nflags: {folder}  ({found['seconds']:.0f} s)")
    if not found["complete"]:
        return 3
    print(after_flag(output, options.name))
    return 0


def _state(folder: str, shards: int) -> tuple[int, str]:
    done = len(listing.list_files(layout.all_parquet(folder)))
    return done, f"{done:,} of {shards:,} shards"


def refuse_other_scores(options: FlagOptions, settings: dict[str, Any], calibration: Calibration) -> None:
    """Checks that the calibration applies to the scores.

    Raises:
      UsageError: of another model, fed in another way, at another temperature or epsilon, or without the detector.
    """
    found, detector = to_json(calibration.settings), options.detector
    if settings["model_digest"] != found["model_digest"]:
        raise UsageError(
            f"{options.calibration} was calibrated for a different model than the one that scored {options.scores}"
        )
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
    if detector in FITTED_DETECTORS and settings.get("reference_digest") != found["reference_digest"]:
        raise UsageError(
            f"--detector {detector}: {options.scores} was not scored with the reference that {options.calibration} was "
            "calibrated with"
        )
    if detector not in calibration.scores:
        raise UsageError(
            f"--detector {detector}: not available for this model's head; the calibration has "
            f"{', '.join(calibration.scores)}"
        )
    if detector not in settings["detectors"]:
        raise UsageError(f"--detector {detector}: {options.scores} was scored without it: --detectors left it out")


def refuse_other_detector(options: FlagOptions) -> None:
    """Checks that no flags of another detector would be lost.

    Raises:
      UsageError: they would.
    """
    earlier = flags_detector(options.scores, options.name)
    if earlier not in (None, options.detector):
        raise UsageError(
            f"{layout.flags_folder(options.scores, options.name)} has flags by {earlier}: to keep both, give these a "
            f"name, such as --name {options.detector}"
        )


def flag_rule(options: FlagOptions, calibration: Calibration) -> FlagRule:
    """The rule by which an image is flagged.

    Raises:
      UsageError: scores by class are required, but the calibration has none.
    """
    if not options.per_class:
        return FlagRule(options.detector, calibration.scores[options.detector], {}, options.tpr, options.fdr)
    by_class = calibration.class_scores.get(options.detector)
    if not by_class:
        raise UsageError(
            "--per_class: the calibration has no class of at least 100 images, or `tune` ran without --per_class"
        )
    if calibration.rest_scores is None:
        raise UsageError(
            f"--per_class: an earlier version wrote {options.calibration}, without the scores of the classes that have "
            "too few for themselves: run the same `tune` command again; it scores nothing again"
        )
    rest = calibration.rest_scores.get(options.detector)
    return FlagRule(options.detector, rest, by_class, options.tpr, options.fdr)


def _calibration_facts(options: FlagOptions, calibration: Calibration) -> dict[str, Any]:
    inside = [name for name, own in calibration.content["sources"].items() if own["role"] == "in_distribution"]
    labels = calibration.content.get("labels")
    # Of images that a person labelled to re-calibrate: they cannot judge these flags.
    moved = {"labels": labels["digest"], "labelled_images": labels["images"]} if labels else {}
    return moved | {
        "path": options.calibration,
        "images": calibration.scores[options.detector].count,
        "sources": inside,
        "temperature": calibration.temperature,
        "epsilon": calibration.epsilon,
    }
