r"""`odin-beam compare`: has this batch of images moved from that one? From existing scores; no TensorFlow, no GPU.

    odin-beam compare --scores scores --reference validation --new photos
    odin-beam compare --scores january --scores february

writes `compare-REFERENCE+NEW.json` to the first folder.
"""

from collections.abc import Sequence
from typing import Any

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.compare import CompareOptions
from odin_beam.pipeline.launch.ranked_by import ranked_by
from odin_beam.pipeline.launch.run_folder import class_names, flags_detector, launched_run, read_facts
from odin_beam.pipeline.show.compare_text import compare_text
from odin_beam.transforms.calibration.calibration_file import SHARED_SETTINGS
from odin_beam.transforms.calibration.flags_summary import scores_state
from odin_beam.transforms.detectors.registry import ALL
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import paths, writing
from odin_beam.transforms.tables import layout
from odin_beam.transforms.tables.run_file import differences
from odin_beam.transforms.text import printable

# What makes the scores of two runs comparable; the detectors may differ.
_COMPARED = ("model_digest", *SHARED_SETTINGS, "odin", "reference_digest", "code_version")


def run(options: CompareOptions) -> int:
    """Compares two batches, and prints what has moved; exit code 3 if shards of either are missing.

    Raises:
      UsageError: not output folders of `score`, scores of different settings, or a source that is not there.
    """
    launch, shards = launched_run(options.scores)
    new_launch, new_shards = (launch, shards)
    if options.new_scores != options.scores:
        new_launch, new_shards = launched_run(options.new_scores)
    refuse_different_settings(options, launch["settings"], new_launch["settings"])
    reference = _source(options.scores, "reference", options.reference, shards)
    new = _source(options.new_scores, "new", options.new, new_shards)
    if (options.scores, reference) == (options.new_scores, new):
        raise UsageError(f"--reference {reference} --new {new}: give two different sources")
    detectors = _detectors(launch["settings"], new_launch["settings"])

    import apache_beam as beam

    from odin_beam.pipeline.runners.beam_options import beam_options
    from odin_beam.pipeline.runners.submit import submit
    from odin_beam.transforms.comparison.compare_batches import CompareBatches, sample_shards
    from odin_beam.transforms.comparison.comparison_content import Batch, Comparison

    comparison = Comparison(
        Batch(options.scores, reference, launch["settings"]),
        Batch(options.new_scores, new, new_launch["settings"]),
        detectors,
        ranked_by(detectors, flags_detector(options.scores, None)),
        sample_shards(shard for shard in shards if shard.source == reference),
        scores_state(launch["settings"], shards),
        class_names(options.scores, launch) or (),
    )
    name = layout.comparison_file(reference, new, None if options.new_scores == options.scores else options.new_scores)
    path = paths.join(options.scores, name)
    pipeline = beam.Pipeline(options=beam_options(options.beam))
    writing.delete([path])
    pipeline | CompareBatches(comparison, name)
    if handed := submit(pipeline):
        print(f"{handed}; {path} appears when the job is done")
        return 0

    found = read_facts(options.scores, name, layout.COMPARISONS)
    print(compare_text(found))
    print(f"\ncomparison: {printable(path)}  ({found['seconds']:.0f} s)")
    return 0 if found["complete"] else 3


def refuse_different_settings(options: CompareOptions, first: dict[str, Any], second: dict[str, Any]) -> None:
    """Checks that the scores of two runs can be compared.

    Raises:
      UsageError: of different models, fed differently, or at another temperature, epsilon, precision or reference.
    """
    found = differences(*({name: settings.get(name) for name in _COMPARED} for settings in (first, second)))
    if found:
        raise UsageError(
            f"{options.scores} and {options.new_scores} were scored with different settings: {'; '.join(found)}; "
            "score both alike"
        )


def _source(output: str, flag: str, name: str | None, shards: Sequence[Shard]) -> str:
    sources = list(dict.fromkeys(shard.source for shard in shards))
    if name is None and len(sources) == 1:
        return sources[0]
    if name is None:
        raise UsageError(f"{output} has the sources {', '.join(sources)}: name one by --{flag}")
    if name not in sources:
        raise UsageError(f"--{flag} {name}: not a source of {output}; there are {', '.join(sources)}")
    return name


def _detectors(first: dict[str, Any], second: dict[str, Any]) -> tuple[str, ...]:
    """Those that both runs have, in the order of the registry."""
    detectors = tuple(name for name in ALL if name in first["detectors"] and name in second["detectors"])
    if not detectors:
        raise UsageError("the two runs have no detector in common: score both with the same --detectors")
    return detectors
