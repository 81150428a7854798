r"""`odin-beam score`: images in, one Parquet row per image and detection metrics out.

    odin-beam score --model classifier.keras --output scores \\
      --in_distribution 'cifar10=data/cifar10-*.tfrecord' --out_distribution 'tin=files:tiny_imagenet/**.png' \\
      --out_distribution noise:gaussian,noise:uniform

On Dataflow:

    odin-beam score --model gs://B/classifier.keras --output gs://B/scores --input 'gs://B/archive/*.tfrecord' \\
      --runner=DataflowRunner --project=P --region=R --temp_location=gs://B/tmp --sdk_container_image=IMAGE \\
      --accelerator='type:nvidia-tesla-t4;count:1;install-nvidia-driver'

Other detectors later, from features that a run kept with `--features float32`, without images or a model:

    odin-beam score --from_features scores --reference reference.npz --output rescored
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from odin_beam.pipeline.flags.from_features import FromFeaturesOptions
from odin_beam.pipeline.flags.groups import refuse_unknown_sources
from odin_beam.pipeline.flags.score import ScoreOptions, score_settings
from odin_beam.pipeline.launch import run_folder, sources
from odin_beam.pipeline.launch.class_names import find_class_names
from odin_beam.pipeline.launch.tensorflow_import import import_tensorflow
from odin_beam.pipeline.show.metrics_table import metrics_table, summary_text
from odin_beam.pipeline.show.next_step import after_score
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import paths
from odin_beam.transforms.tables import layout

if TYPE_CHECKING:
    import apache_beam as beam

    from odin_beam.pipeline.launch.scoring_run import ScoringRun
    from odin_beam.transforms.fitting.feature_rows import LastLayerWeights


def run(options: ScoreOptions | FromFeaturesOptions) -> int:
    """Scores the images that have no scores yet, summarises, and prints the result; returns the exit code.

    Raises:
      UsageError: before anything is written.
    """
    launched = time.time()
    run_folder.refuse_output(options.output)
    with tempfile.TemporaryDirectory(prefix="odin-beam-listings-") as folder:
        if isinstance(options, FromFeaturesOptions):
            import_tensorflow()
            return _score_features(options, folder, launched)
        shards = sources.list_shards(options.sources, folder, options.output, not options.overwrite)
        refuse_unknown_sources(options.groups, shards)
        settings = score_settings(options)
        import_tensorflow()
        return _score(options, settings, shards, folder, launched)


def _score(
    options: ScoreOptions, settings: ScoreSettings, shards: Sequence[Shard], folder: str, launched: float
) -> int:
    names = find_class_names(options.arguments, shards)
    import apache_beam as beam

    from odin_beam.pipeline.launch import scoring_run
    from odin_beam.pipeline.runners.beam_options import beam_options
    from odin_beam.transforms.fitting.feature_rows import write_last_layer

    beam_settings = beam_options(options.beam, True, options.accelerator)
    settings = scoring_run.resolve_precision(settings, beam_settings)
    scoring = scoring_run.prepare(
        settings, shards, options.output, folder, options.arguments.command, options.overwrite, options.check, names
    )
    settings = scoring.settings
    weights = _kept_layer(scoring) if settings.kept_features else None
    scoring_run.launch(scoring)
    if weights is not None:
        write_last_layer(options.output, weights)
    pipeline = beam.Pipeline(options=beam_settings)
    scored = scoring_run.scored_shards(pipeline, scoring, options.accelerator)
    return _finish(options, scoring, pipeline, scored, options.calibrated, launched)


def _score_features(options: FromFeaturesOptions, folder: str, launched: float) -> int:
    import apache_beam as beam

    from odin_beam.pipeline.launch import features_run, scoring_run
    from odin_beam.pipeline.runners.beam_options import beam_options
    from odin_beam.transforms.scoring.score_features import ScoreFeatures
    from odin_beam.transforms.shards.manifest import ReadManifest
    from odin_beam.transforms.shards.manifest_file import manifest_digest

    beam_settings = beam_options(options.beam)
    scoring, kept, calibrated = features_run.prepare(options, folder)
    scoring_run.launch(scoring)
    pipeline = beam.Pipeline(options=beam_settings)
    manifest = pipeline | ReadManifest(options.output, manifest_digest(scoring.shards))
    scored = manifest | ScoreFeatures(scoring.settings, options.output, scoring.shared, kept=kept)
    return _finish(options, scoring, pipeline, scored, calibrated, launched)


def _finish(
    options: ScoreOptions | FromFeaturesOptions,
    scoring: "ScoringRun",
    pipeline: "beam.Pipeline",
    scored: "dict[str, beam.PCollection]",
    calibrated: bool,
    launched: float,
) -> int:
    """Runs a pipeline whose shards are scored, with a summary as its last step; returns the exit code."""
    from odin_beam.pipeline.launch import scoring_run
    from odin_beam.transforms.metrics.summarize_scores import SummarizeScores

    scored | SummarizeScores(
        options.output,
        scoring.settings,
        calibrated,
        launched,
        warnings=scoring.warnings,
        groups=options.groups,
        unavailable=scoring.unavailable,
    )
    if handed := scoring_run.run(pipeline, scoring):
        print(f"{handed}; {paths.join(options.output, layout.SUMMARY)} appears when the job is done")
        return 0
    code = report(options.output, options.max_rejected)
    if not code:
        roles = {shard.role for shard in scoring.shards}
        calibration = getattr(options.arguments, "calibration", None)
        print(after_score(options.output, roles, calibrated, calibration))
    return code


def _kept_layer(scoring: "ScoringRun") -> "LastLayerWeights":
    """The weights to store beside the features, whose size is said now.

    Raises:
      UsageError: the model has no last layer of that kind.
    """
    from odin_beam.pipeline.launch import scoring_run
    from odin_beam.pipeline.show.features_text import features_text
    from odin_beam.transforms.scoring.scorer import last_layer_weights, load_settings_classifier

    with scoring_run.model_errors():
        scorer = scoring.scorer
        weights = last_layer_weights(scorer.classifier if scorer else load_settings_classifier(scoring.settings))
    if scorer:
        images = sum(scoring.expected.values())
        print(features_text(images, len(weights.kernel), scoring.settings.kept_features), file=sys.stderr)
    return weights


def report(output: str, max_rejected: float) -> int:
    """Prints what a finished run found, and where it is; returns the exit code.

    Raises:
      StorageError: the summary is gone.
    """
    summary = run_folder.read_summary(output)
    if metrics := run_folder.read_facts(output, layout.METRICS):
        print(metrics_table(metrics), end="\n\n")
    print(summary_text(summary))
    print(f"scores: {layout.scores_folder(output)}  ({summary['seconds']:.0f} s)")
    share = summary["rejected_share"]
    if share > max_rejected:
        print(
            f"{share:.2%} of the records were rejected, more than --max_rejected {max_rejected:g}: "
            f"see {layout.rejects_folder(output)}"
        )
    return 3 if share > max_rejected or not summary["complete"] else 0
