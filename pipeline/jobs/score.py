r"""`odin-beam score`: images in, one Parquet row per image and detection metrics out.

    odin-beam score --model classifier.keras --output scores \\
      --in_distribution 'cifar10=data/cifar10-*.tfrecord' --out_distribution 'tin=files:tiny_imagenet/**.png' \\
      --out_distribution noise:gaussian,noise:uniform

On Dataflow:

    odin-beam score --model gs://B/classifier.keras --output gs://B/scores --input 'gs://B/archive/*.tfrecord' \\
      --runner=DataflowRunner --project=P --region=R --temp_location=gs://B/tmp --sdk_container_image=IMAGE \\
      --accelerator='type:nvidia-tesla-t4;count:1;install-nvidia-driver'
"""

import tempfile
import time
from collections.abc import Sequence

from odin_beam.pipeline.flags.groups import refuse_unknown_sources
from odin_beam.pipeline.flags.score import ScoreOptions, score_settings
from odin_beam.pipeline.launch import run_folder, sources
from odin_beam.pipeline.launch.tensorflow_import import import_tensorflow
from odin_beam.pipeline.show.metrics_table import metrics_table, summary_text
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import paths
from odin_beam.transforms.tables import layout


def run(options: ScoreOptions) -> int:
    """Scores the images that have no scores yet, summarises, and prints the result; returns the exit code.

    Raises:
      UsageError: before anything is written.
    """
    launched = time.time()
    run_folder.refuse_output(options.output)
    with tempfile.TemporaryDirectory(prefix="odin-beam-listings-") as folder:
        shards = sources.list_shards(options.sources, folder, options.output)
        refuse_unknown_sources(options.groups, shards)
        settings = score_settings(options)
        import_tensorflow()
        return _score(options, settings, shards, folder, launched)


def _score(
    options: ScoreOptions, settings: ScoreSettings, shards: Sequence[Shard], folder: str, launched: float
) -> int:
    import apache_beam as beam

    from odin_beam.pipeline.launch import scoring_run
    from odin_beam.pipeline.runners.beam_options import beam_options
    from odin_beam.transforms.metrics.summarize_scores import SummarizeScores

    beam_settings = beam_options(options.beam, True, options.accelerator)
    settings = scoring_run.resolve_precision(settings, beam_settings)
    scoring = scoring_run.prepare(
        settings, shards, options.output, folder, options.arguments.command, options.overwrite, options.check
    )
    settings = scoring.settings
    scoring_run.launch(scoring)
    pipeline = beam.Pipeline(options=beam_settings)
    scored = scoring_run.scored_shards(pipeline, scoring, options.accelerator)
    scored | SummarizeScores(
        options.output,
        settings,
        options.calibrated,
        launched,
        warnings=scoring.warnings,
        groups=options.groups,
        unavailable=scoring.unavailable,
    )
    if handed := scoring_run.run(pipeline, scoring):
        print(f"{handed}; {paths.join(options.output, layout.SUMMARY)} appears when the job is done")
        return 0
    return report(options.output, options.max_rejected)


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
