r"""`odin-beam fit`: what the fitted detectors need to know of in-distribution images.

    odin-beam fit --model classifier.keras --in_distribution 'shards/train-*.tfrecord' --output reference.npz

writes `reference.npz` for `score --reference`, and `reference-fitting/`, the features of every image: the same command
resumes there, and another bank or sample needs no new features.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.fit import FitOptions, fit_settings
from odin_beam.pipeline.launch import run_folder, sources
from odin_beam.pipeline.launch.class_names import ClassNames, names_beside
from odin_beam.pipeline.launch.tensorflow_import import import_tensorflow
from odin_beam.pipeline.show.metrics_table import problems
from odin_beam.transforms.errors import FeatureReferenceError, StorageError
from odin_beam.transforms.scoring.feature_settings import FeatureSettings
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import listing, writing
from odin_beam.transforms.tables import layout


def run(options: FitOptions) -> int:
    """Computes the features that are missing, derives the reference, and prints what it holds; returns the exit code.

    Raises:
      UsageError: before anything is written.
    """
    launched = time.time()
    _refuse_output(options)
    with tempfile.TemporaryDirectory(prefix="odin-beam-listings-") as folder:
        shards = sources.list_shards(options.sources, folder, options.folder, not options.overwrite)
        settings = fit_settings(options)
        if _is_finished(options, settings, shards):
            print(f"{options.output} is finished: it was fitted to just these images with these settings")
            return _report(options, shards)
        import_tensorflow()
        return _fit(options, settings, shards, folder, launched)


def _fit(options: FitOptions, settings: FeatureSettings, shards: Sequence[Shard], folder: str, launched: float) -> int:
    import apache_beam as beam

    from odin_beam.pipeline.launch import scoring_run
    from odin_beam.pipeline.runners.beam_options import beam_options
    from odin_beam.transforms.fitting.feature_rows import write_last_layer
    from odin_beam.transforms.fitting.fit_reference_file import FitReference, ReferenceFit, fit_digest
    from odin_beam.transforms.fitting.fit_steps import MAX_GROUPS, FitSteps
    from odin_beam.transforms.metrics.summarize_scores import RunFacts
    from odin_beam.transforms.scoring.scorer import last_layer_weights, load_settings_classifier

    beam_settings = beam_options(options.beam, True, options.accelerator)
    settings = scoring_run.resolve_precision(settings, beam_settings)
    scoring = scoring_run.prepare(
        settings, shards, options.folder, folder, options.arguments.command, options.overwrite, options.check
    )
    with scoring_run.model_errors():
        classifier = scoring.scorer.classifier if scoring.scorer else load_settings_classifier(scoring.settings)
        weights = last_layer_weights(classifier)
    settings = replace(scoring.settings, width=len(weights.kernel))
    scoring = replace(scoring, settings=settings)
    identity = settings.identity()
    steps = FitSteps(options.folder, identity, options.bank, options.sample, min(MAX_GROUPS, len(shards)))
    fit = ReferenceFit(
        steps,
        options.output,
        fit_digest(identity, shards, options.bank, options.sample),
        RunFacts(identity, calibrated=False, launched=launched, warnings=scoring.warnings),
    )
    scoring_run.launch(scoring)
    if options.overwrite:
        writing.delete([options.output])
    write_last_layer(options.folder, weights)
    pipeline = beam.Pipeline(options=beam_settings)
    scored = scoring_run.scored_shards(pipeline, scoring, options.accelerator)
    scored | FitReference(fit)
    if handed := scoring_run.run(pipeline, scoring):
        print(f"{handed}; {options.output} appears when the job is done")
        return 0
    return _report(options, shards)


def _refuse_output(options: FitOptions) -> None:
    run_folder.refuse_output(options.folder)
    run_folder.refuse_output_file(options.output)
    settings = (run_folder.read_facts(options.folder, layout.RUN) or {}).get("settings", {})
    if (kept := settings.get("kept_features")) and not options.overwrite:
        raise UsageError(
            f"{options.folder} holds {kept} features of a `score` run: `fit` computes its own, in float32, since "
            "float16 would move scores by thousandths of their standard deviation; choose another --output"
        )


def _is_finished(options: FitOptions, settings: FeatureSettings, shards: Sequence[Shard]) -> bool:
    """Whether the reference is there, made by this fit.

    Raises:
      UsageError: there is a file that is not a reference.
    """
    if listing.stat_file(options.output) is None:
        return False
    from odin_beam.transforms.fitting.fit_reference_file import finished_reference, fit_digest

    # A run in mixed precision may have gone on in float32.
    for precise in (settings, replace(settings, precision="float32")):
        fit = fit_digest(precise.identity(), shards, options.bank, options.sample)
        try:
            if finished_reference(options.output, fit):
                return not options.overwrite
        except (FeatureReferenceError, StorageError) as e:
            raise UsageError(f"--output exists and is not a reference: {e}") from e
    print(f"{options.output} was made with other images or settings: it will be replaced", file=sys.stderr)
    return False


def _report(options: FitOptions, shards: Sequence[Shard]) -> int:
    """Prints what the reference holds; returns the exit code."""
    from odin_beam.pipeline.show.fit_text import fit_text
    from odin_beam.pipeline.show.next_step import after_fit

    summary = run_folder.read_facts(options.folder, layout.SUMMARY)
    if summary is None:
        # The reference is of use without the folder that it was made in.
        print(after_fit(options))
        return 0
    for line in problems(summary):
        print(line)
    if not summary["complete"]:
        print(f"no reference without these shards; the others' features are in {options.folder}")
        return 3
    if not summary["fit"]:
        rejects = layout.rejects_folder(options.folder)
        print(f"no reference: none of the {summary['framed']:,} records could be used; see {rejects}")
        return 3
    beside = tuple(names_beside(shards, options.arguments.label_feature))
    names = ClassNames(found=beside).of_model(len(summary["fit"]["classes"]["images"]))
    print(fit_text(summary, names))
    share = summary["rejected_share"]
    if share > options.max_rejected:
        print(f"{share:.2%} of the records were rejected, more than --max_rejected {options.max_rejected:g}")
        return 3
    print(after_fit(options))
    return 0
