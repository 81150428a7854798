r"""`odin-beam top`: the images of a `score` run to look at first.

    odin-beam top --scores scores --count 50 --csv first.csv --copy first/ --sheet first.png

prints those least like what the classifier knows, by the p-values of `flag` if it ran, else by score. `--random` draws
a sample for a person to label, which `review` then reads.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.flags.top import TopOptions
from odin_beam.pipeline.launch.progress import show_progress
from odin_beam.pipeline.launch.ranked_by import ranked_by
from odin_beam.pipeline.launch.run_folder import class_names, launched_run, read_facts, read_flags
from odin_beam.pipeline.launch.sampled_sources import sampled_sources
from odin_beam.pipeline.show.metrics_table import damaged_scores
from odin_beam.pipeline.show.next_step import after_top
from odin_beam.pipeline.show.plural import plural
from odin_beam.pipeline.show.top_text import is_top_csv, top_csv, top_text
from odin_beam.transforms.errors import ImageError, StorageError
from odin_beam.transforms.ranking.first_rows import HIGHEST, LOWEST, RANDOM, Ranking
from odin_beam.transforms.ranking.review import FOREIGN, draw_of, read_labels
from odin_beam.transforms.settings_json import from_json
from odin_beam.transforms.shards.shard import FeatureNames, Shard
from odin_beam.transforms.storage import listing, paths, reading, writing
from odin_beam.transforms.tables import layout
from odin_beam.transforms.text import printable

# Images read back at once: most of the time is latency.
_FETCHERS = 16


def run(options: TopOptions) -> int:
    """Prints the images, and copies or draws them; exit code 3 if shards of the manifest are missing.

    Raises:
      UsageError: not an output folder of `score`, no such source, class, detector or flags, or a file in the way.
    """
    launch, shards = launched_run(options.scores)
    flags, problem = read_flags(options.scores, launch, shards, options.name)
    if problem or (flags is None and (options.name or options.random)):
        raise UsageError(problem or _no_flags(options))
    ranking = _ranking(options, launch, shards, flags)
    refuse_files(options)

    import apache_beam as beam

    from odin_beam.pipeline.runners.beam_options import beam_options
    from odin_beam.pipeline.runners.submit import submit
    from odin_beam.transforms.ranking.rank_shards import RankSettings, RankShards
    from odin_beam.transforms.scoring.check_finished import ReadFinished

    writing.delete([paths.join(options.scores, layout.TOP)])
    pipeline = beam.Pipeline(options=beam_options(options.beam))
    settings = RankSettings(options.scores, launch["settings"], ranking, options.name)
    pipeline | ReadFinished(options.scores) | RankShards(settings)
    submit(pipeline)
    found = read_facts(options.scores, layout.TOP)
    rows = found["rows"]

    names = class_names(options.scores, launch)
    for row in rows:
        if row["class_name"] is None and names and row["prediction"] < len(names):
            row["class_name"] = names[row["prediction"]]
    print(top_text(rows, ranking))
    if options.copy or options.sheet:
        _read_back(options, rows, launch, shards)
    draw = draw_of(flags, ranking.sources) if ranking.order == RANDOM else None
    if options.csv:
        writing.write_bytes(options.csv, top_csv(rows, draw).encode())
        print(f"table: {options.csv}")
    failed = damaged_scores(found["failed_shards"])
    print("\n" + "\n".join([*failed, after_top(options, flags is not None)]))
    return 3 if failed else 0


def _no_flags(options: TopOptions) -> str:
    if options.name:
        return f"{options.scores} has no flags of the name {options.name}: run `flag --name {options.name}` first"
    return "--random draws from the flagged images and from the others: run `odin-beam flag` first"


def _ranking(options: TopOptions, launch: dict[str, Any], shards: list[Shard], flags: dict[str, Any] | None) -> Ranking:
    """Raises:
    UsageError: no such source, class or detector.
    """
    detectors = launch["settings"]["detectors"]
    if options.detector is not None and options.detector not in detectors:
        raise UsageError(
            f"--detector {options.detector}: {options.scores} has no scores of it, only {', '.join(detectors)}"
        )
    sources = sampled_sources(options.scores, shards, options.source)
    detector = options.detector or ranked_by(detectors, flags["detector"] if flags else None)
    uses_flags = flags is not None and flags["detector"] == detector
    if options.random and not uses_flags:
        raise UsageError(f"--random draws from flags, and these are by {flags['detector']}: leave out --detector")
    order = RANDOM if options.random else HIGHEST if options.high else LOWEST
    predicted = _predicted(options.predicted, class_names(options.scores, launch))
    salt = flags["calibration"].get("labels", "") if uses_flags else ""
    return Ranking(detector, order, options.count, sources, predicted, uses_flags, salt)


def _predicted(wanted: str | None, names: "tuple[str, ...] | None") -> int | None:
    """Index of a class from its name or index.

    Raises:
      UsageError: there is no such class.
    """
    if wanted is None:
        return None
    if names and wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < (len(names) if names else math.inf):
        return int(wanted)
    known = f"the classes are {', '.join(names[:20])}" if names else "the classes have no names: give an index"
    raise UsageError(f"--class {wanted}: there is no such class; {known}{', ...' if names and len(names) > 20 else ''}")


def refuse_files(options: TopOptions) -> None:
    """Checks that nothing of a person's is overwritten.

    Raises:
      UsageError: a file is there that `top` has not written, or one with labels, or the folder is not empty.
    """
    for path in filter(None, (options.csv, options.sheet)):
        if paths.is_local(path) and os.path.isdir(path):
            raise UsageError(f"{path} is a folder: give the name of a file")
    if options.csv and listing.stat_file(options.csv) is not None:
        if not is_top_csv(reading.read_bytes(options.csv)):
            raise UsageError(f"--csv {options.csv} exists and is not a table of `top`: choose another name")
        if _has_labels(options.csv):
            raise UsageError(f"--csv {options.csv} exists and has labels in its column {FOREIGN}: choose another name")
    if options.sheet and listing.stat_file(options.sheet) is not None:
        from odin_beam.pipeline.show.labelled_sheet import is_sheet

        if not is_sheet(reading.read_bytes(options.sheet)):
            raise UsageError(f"--sheet {options.sheet} exists and is not a sheet of `top`: choose another name")
    if options.copy:
        if any(c in options.copy for c in "*?["):
            raise UsageError(f"--copy {options.copy}: its name must not hold *, ? or [")
        if paths.is_local(options.copy) and os.path.isfile(options.copy):
            raise UsageError(f"--copy {options.copy} is a file: give a folder")
        if listing.list_files(paths.join(options.copy, "*")):
            raise UsageError(f"--copy {options.copy} is not empty: choose another folder")


def _has_labels(path: str) -> bool:
    """Whether a table of ours has been touched in its column `foreign`, by an answer or by anything else."""
    try:
        return any(answer is not None for answer in read_labels([path]).answers.values())
    except ValueError as e:
        # A table that is not to be labelled lacks the column.
        return "has no column" not in str(e)


def _read_back(options: TopOptions, rows: list[dict[str, Any]], launch: dict[str, Any], shards: list[Shard]) -> None:
    """Reads the images once more, copies and draws them, and says which could not be read."""
    from odin_beam.pipeline.launch.tensorflow_import import import_tensorflow

    import_tensorflow()
    from odin_beam.pipeline.show.labelled_sheet import MOST, SIDE, labelled_sheet
    from odin_beam.pipeline.show.scaled_image import scaled_image
    from odin_beam.transforms.ranking import originals

    names = from_json(FeatureNames, launch["settings"]["features"], paths.join(options.scores, layout.RUN))
    by_source = {
        source: [shard for shard in shards if shard.source == source] for source in {row["source"] for row in rows}
    }
    problems, tiles, done = {}, {}, []

    def handle(place: int, row: dict[str, Any]) -> None:
        file = None
        try:
            image = originals.original(row, by_source[row["source"]], options.scores, names)
            if options.copy:
                file = originals.file_content(image)
            if options.sheet and place <= MOST:
                tiles[place] = scaled_image(originals.original_pixels(image), SIDE)
        except (ImageError, StorageError) as e:
            problems[place] = str(e)
        if file is not None:
            row["copy"] = originals.file_name(place, len(rows), row, file[0], not options.random)
            writing.write_bytes(paths.join(options.copy, row["copy"]), file[1])
        done.append(place)

    progress = show_progress("reading back", len(rows), "images", lambda: (len(done), f"{len(done):,} images"))
    with progress, ThreadPoolExecutor(_FETCHERS) as fetchers:
        list(fetchers.map(handle, range(1, len(rows) + 1), rows))
    print()
    if options.copy:
        print(f"copies: {options.copy}  ({plural(sum('copy' in row for row in rows), 'image')})")
    if options.sheet:
        writing.write_bytes(options.sheet, labelled_sheet(rows[:MOST], tiles, not options.random))
        print(f"sheet: {options.sheet}" + (f"  (the first {MOST} images)" if len(rows) > MOST else ""))
    if problems:
        first = min(problems)
        why = printable(problems[first])
        print(f"{plural(len(problems), 'image')} could not be read back, the first is number {first}: {why}")
