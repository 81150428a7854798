"""`odin-beam evaluate`: recomputes `metrics.json` from the Parquet of a `score` run; no TensorFlow, no GPU.

odin-beam evaluate --scores scores
"""

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.evaluate import EvaluateOptions
from odin_beam.pipeline.flags.groups import refuse_unknown_sources
from odin_beam.pipeline.launch.run_folder import launched_run, read_all_flags, read_facts
from odin_beam.pipeline.show.flags_text import flags_text
from odin_beam.pipeline.show.metrics_table import damaged_scores, metrics_table
from odin_beam.pipeline.show.next_step import after_evaluate
from odin_beam.pipeline.show.plural import plural
from odin_beam.transforms.storage import paths
from odin_beam.transforms.tables import layout


def run(options: EvaluateOptions) -> int:
    """Recomputes and prints the metrics of the scored images; exit code 3 if shards of the manifest are missing.

    Raises:
      UsageError: not an output folder of `score`, or one without an in-distribution source.
    """
    output = options.scores
    launch, shards = launched_run(output)
    if all(shard.role != "in_distribution" for shard in shards):
        raise UsageError(f"{output} has no in-distribution source, so there are no detection metrics to compute")
    refuse_unknown_sources(options.groups, shards)
    all_flags = read_all_flags(output, launch, shards)

    import apache_beam as beam

    from odin_beam.pipeline.runners.beam_options import beam_options
    from odin_beam.pipeline.runners.submit import submit
    from odin_beam.transforms.metrics.summarize_scores import SummarizeScores
    from odin_beam.transforms.scoring.check_finished import ReadFinished

    pipeline = beam.Pipeline(options=beam_options(options.beam))
    pipeline | ReadFinished(output) | SummarizeScores(output, identity=launch["settings"], groups=options.groups)
    if handed := submit(pipeline):
        print(f"{handed}; {paths.join(output, layout.METRICS)} is updated when the job is done")
        return 0

    metrics = read_facts(output, layout.METRICS)
    print(metrics_table(metrics))
    for name, flags, problem in all_flags:
        title = f"flags {name}:\n" if name else ""
        print(f"\n{title}{flags_text(flags) if flags else problem}")
    if damaged := damaged_scores(metrics["damaged_scores"]):
        print("\n" + "\n".join(damaged))
    absent = len(shards) - metrics["scored_shards"] - len(metrics["damaged_scores"])
    if absent:
        print(
            f"\n{absent:,} of {plural(len(shards), 'shard')} are not scored yet, so they are not in these figures: "
            "run `score` again"
        )
    if absent or damaged:
        return 3
    print(f"\n{after_evaluate(output)}")
    return 0
