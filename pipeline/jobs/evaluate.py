"""`odin-beam evaluate`: `metrics.json` again from the Parquet of a `score` run; no TensorFlow, no GPU.

odin-beam evaluate --scores scores
"""

import apache_beam as beam

from odin_beam.pipeline.flags.options import EvaluateOptions, UsageError, beam_options
from odin_beam.pipeline.launch.run_folder import launched_run, read_flags, read_json
from odin_beam.pipeline.runners.dataflow import handed_over
from odin_beam.pipeline.runners.local_workers import run_pipeline
from odin_beam.pipeline.show.flags_text import flags_text
from odin_beam.pipeline.show.metrics_table import metrics_table
from odin_beam.transforms.metrics.summarize_scores import SummarizeScores
from odin_beam.transforms.scoring.check_finished import CheckFinished
from odin_beam.transforms.shards.manifest import ReadManifest
from odin_beam.transforms.storage import paths


def run(options: EvaluateOptions) -> int:
    """Recomputes and prints the metrics of what is scored; exit code 3 where shards of the manifest are missing.

    Raises:
      UsageError: no output folder of `score`, or one without in-distribution source.
    """
    output = options.scores
    launch, shards = launched_run(output)
    roles = {shard.source: shard.role for shard in shards}
    if "in_distribution" not in roles.values():
        raise UsageError(f"{output} has no in-distribution source, so there are no detection metrics to compute")

    pipeline = beam.Pipeline(options=beam_options(options.beam))
    checked = pipeline | ReadManifest(output) | CheckFinished(output, launch["settings"])
    missing = checked.todo | "Missing" >> beam.Map(lambda shard: (shard, "not scored"))
    {"finished": checked.finished, "failed": missing} | SummarizeScores(output, roles)
    result = run_pipeline(pipeline)
    if handed := handed_over(result):
        print(f"{handed}; {paths.join(output, 'metrics.json')} is new when the job is done")
        return 0
    result.wait_until_finish()

    metrics = read_json(output, "metrics.json")
    print(metrics_table(metrics))
    flags, problem = read_flags(output, launch, shards)
    if flags or problem:
        print(f"\n{flags_text(flags) if flags else problem}")
    absent = len(shards) - metrics["shards"]["scored"]
    if absent:
        print(f"\n{absent:,} of {len(shards):,} shards are not scored yet and not in these figures: run `score` again")
    return 3 if absent else 0
