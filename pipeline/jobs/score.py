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

import apache_beam as beam

from odin_beam.pipeline.flags.options import ScoreOptions, beam_options, score_settings
from odin_beam.pipeline.launch import run_folder, scoring_run, sources
from odin_beam.pipeline.show.metrics_table import metrics_table, summary_text
from odin_beam.transforms.metrics.summarize_scores import RunFacts, SummarizeScores
from odin_beam.transforms.storage import paths


def run(options: ScoreOptions) -> int:
    """Scores what is not scored yet, sums up, and prints the result; gives the exit code.

    Raises:
      UsageError: before anything is written.
    """
    with tempfile.TemporaryDirectory(prefix="odin-beam-listings-") as folder:
        return _run(options, folder)


def _run(options: ScoreOptions, folder: str) -> int:
    launched = time.time()
    run_folder.refuse_output(options.output)
    shards = sources.list_shards(options.sources, folder, options.output)
    beam_settings = beam_options(options.beam, True, options.accelerator)
    with scoring_run.model_errors():
        settings = scoring_run.settle_precision(score_settings(options), beam_settings)
    scoring = scoring_run.prepare(settings, shards, options.output, folder, options.overwrite, options.check)
    scoring_run.launch(scoring)
    facts = RunFacts(settings.identity(), options.calibrated, launched)
    roles = {shard.source: shard.role for shard in shards}
    pipeline = beam.Pipeline(options=beam_settings)
    scored = scoring_run.scored_shards(pipeline, scoring, options.accelerator)
    scored | SummarizeScores(options.output, roles, facts)
    if handed := scoring_run.run(pipeline, scoring):
        print(f"{handed}; {paths.join(options.output, 'summary.json')} appears when the job is done")
        return 0
    return report(options.output, options.max_rejected)


def report(output: str, max_rejected: float) -> int:
    """Prints what a finished run found and where it lies; gives the exit code.

    Raises:
      StorageError: it is gone already.
    """
    summary = run_folder.read_summary(output)
    if metrics := run_folder.read_json(output, "metrics.json"):
        print(metrics_table(metrics), end="\n\n")
    print(summary_text(summary))
    print(f"scores: {paths.join(output, 'scores')}  ({summary['seconds']:.0f} s)")
    share = summary["rejected_share"]
    if share > max_rejected:
        where = paths.join(output, "rejects")
        print(f"{share:.2%} of the records were rejected, more than --max_rejected {max_rejected:g}: see {where}")
    return 3 if share > max_rejected or not summary["complete"] else 0
