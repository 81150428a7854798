"""The output folder of a `score` run: which run it belongs to, what it contains, and whether a new run may use it."""

import os
from typing import Any

from odin_beam.pipeline.errors import UsageError
from odin_beam.pipeline.launch.run_shapes import RUN_SHAPES
from odin_beam.transforms.calibration.flags_summary import scores_state
from odin_beam.transforms.errors import StorageError
from odin_beam.transforms.scoring.settings import names_digest
from odin_beam.transforms.shards.manifest_file import read_manifest
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import listing, paths, writing
from odin_beam.transforms.tables import layout
from odin_beam.transforms.tables.json_files import read_json
from odin_beam.transforms.tables.json_shape import NUMBER, problem
from odin_beam.transforms.tables.run_file import differences

# What may be there several times under names of the user's choice.
_NAMED = (layout.NAMED_FLAGS, paths.join(layout.NAMED_FLAGS, "**"), layout.COMPARISONS)


def refuse_output(output: str) -> None:
    """Checks that a run's folder can have this name.

    Raises:
      UsageError: it is a file, or its name could not be listed.
    """
    if any(c in output for c in "*?["):
        raise UsageError(f"--output {output}: its name must not hold *, ? or [")
    if paths.is_local(output) and os.path.isfile(output):
        raise UsageError(f"--output {output} is a file: give a folder")


def refuse_output_file(path: str, flag: str = "output") -> None:
    """Checks that a job's result can be a file of this name.

    Args:
      path: absolute.
      flag: that named it.

    Raises:
      UsageError: it is a folder.
    """
    if paths.is_local(path) and os.path.isdir(path):
        raise UsageError(f"--{flag} {path} is a folder: give the name of a file")


def read_facts(output: str, name: str, kind: str | None = None) -> dict[str, Any] | None:
    """One of the run's JSON files, or None where there is none.

    Args:
      output: the run's folder.
      name: of the file.
      kind: name of the file that it has the shape of; defaults to its own.

    Raises:
      UsageError: it is damaged.
    """
    content, shape = _read(output, name), RUN_SHAPES.get(kind or name)
    if content is not None and shape is not None and (found := problem(content, shape)):
        raise UsageError(f"{paths.join(output, name)} is damaged ({found}): remove it and run again")
    return content


def _read(output: str, name: str) -> dict[str, Any] | None:
    try:
        return read_json(output, name)
    except StorageError as e:
        raise UsageError(str(e)) from e


def read_summary(output: str) -> dict[str, Any]:
    """The summary of a run that has just ended.

    Raises:
      StorageError: there is no summary: another run has started here since and removed it.
    """
    summary = read_json(output, layout.SUMMARY)
    if summary is None:
        raise StorageError(f"the run is done, but another run has since started in {output} and removed its summary")
    return summary


def launched_run(output: str) -> tuple[dict[str, Any], list[Shard]]:
    """The content of a run's `run.json`, and its shards.

    Raises:
      UsageError: this is not an output folder of `score`.
    """
    launch = read_facts(output, layout.RUN)
    if launch is None:
        above = paths.parent(output)
        hint = f"; did you mean {above}?" if read_facts(above, layout.RUN) else ""
        raise UsageError(f"{output} is not an output folder of `score`: it has no {layout.RUN}{hint}")
    if "odin" not in launch["settings"]:
        raise UsageError(f"{output} holds the features of a `fit` run: this job is for an output folder of `score`")
    if "temperatures" in launch["settings"]["odin"]:
        raise UsageError(f"{output} holds the grid of a `tune` run: this job is for an output folder of `score`")
    if found := problem(launch["settings"]["odin"], {"temperature": NUMBER, "epsilon": NUMBER}):
        raise UsageError(f"{paths.join(output, layout.RUN)} is damaged ({found}): remove it and run again")
    try:
        return launch, read_manifest(output)
    except StorageError as e:
        raise UsageError(f"{output} is not an output folder of `score`: {e}") from e


def class_names(output: str, launch: dict[str, Any]) -> tuple[str, ...] | None:
    """The names of a run's classes, in the order of the model's outputs; None where they have none.

    Args:
      output: the run's folder.
      launch: content of its `run.json`.

    Raises:
      UsageError: they are not those that the run began with.
    """
    names, digest = launch.get("class_names"), launch["settings"].get("class_names_digest")
    if digest is not None and (names is None or names_digest(names) != digest):
        raise UsageError(
            f"{paths.join(output, layout.RUN)} is damaged (its class names are not those of its settings): remove it "
            "and run again"
        )
    return None if names is None else tuple(names)


def flags_detector(output: str, name: str | None) -> str | None:
    """The detector of the flags of that name; None without flags, or if the file does not say."""
    detector = (_read(output, layout.flags_file(name)) or {}).get("detector")
    return detector if isinstance(detector, str) else None


def read_all_flags(
    output: str, launch: dict[str, Any], shards: list[Shard]
) -> list[tuple[str | None, dict[str, Any] | None, str | None]]:
    """(name, flags, problem) of all that `flag` made here, as `read_flags` gives them; those without a name first.

    Files with other names than `flag` gives are not its own.

    Raises:
      UsageError: one is damaged.
    """
    files = listing.list_files(paths.join(output, f"{layout.NAMED_FLAGS}.json"))
    names = (stat.path.rpartition("/flags-")[2].removesuffix(".json") for stat in files)
    own = sorted(name for name in names if layout.FLAGS_NAME.fullmatch(name))
    found = [(name, *read_flags(output, launch, shards, name)) for name in [None, *own]]
    return [(name, flags, problem) for name, flags, problem in found if flags or problem]


def read_flags(
    output: str, launch: dict[str, Any], shards: list[Shard], name: str | None = None
) -> tuple[dict[str, Any] | None, str | None]:
    """What `flag` found here, or why that is unknown; both None if it never ran or did not finish.

    Args:
      output: the run's folder.
      launch: content of `run.json`.
      shards: of the manifest.
      name: of the flags; None for those without one.

    Raises:
      UsageError: `flags.json` is damaged.
    """
    file = layout.flags_file(name)
    if (flags := _read(output, file)) is None:
        return None, None
    if "scores_state" in flags and "together" not in flags:
        return None, "flags are of an earlier version: run `odin-beam flag` again"
    flags = read_facts(output, file, layout.FLAGS)
    if flags.get("scores_state") != scores_state(launch["settings"], shards) or not flags.get("complete"):
        return None, "flags are out of date: run `odin-beam flag` again"
    return flags, None


def read_comparisons(
    output: str, launch: dict[str, Any], shards: list[Shard]
) -> list[tuple[str, dict[str, Any] | None, str | None]]:
    """(file, comparison, problem) of every comparison with a batch of this run, in the order of their names.

    Raises:
      UsageError: one is damaged.
    """
    files = sorted(stat.path for stat in listing.list_files(paths.join(output, layout.COMPARISONS)))
    state, found = scores_state(launch["settings"], shards) if files else "", []
    for name in (path.rpartition("/")[2] for path in files):
        comparison, problem = read_facts(output, name, layout.COMPARISONS), None
        if comparison is not None and (comparison["scores_state"] != state or not comparison["complete"]):
            comparison, problem = None, f"{name} is out of date: run `odin-beam compare` again"
        found.append((name, comparison, problem))
    return found


def refuse_other_settings(output: str, settings: dict[str, Any], table: str = layout.SCORES) -> None:
    """Checks that the folder belongs to a run of the same settings.

    Raises:
      UsageError: it was made with other settings, or with unknown ones; the message names the differences.
    """
    earlier = read_facts(output, layout.RUN)
    if earlier is None:
        if listing.list_files(layout.all_parquet(layout.rows_folder(output, table))):
            raise UsageError(f"{output} holds {table} without {layout.RUN}: choose another --output")
        return
    found = differences(earlier["settings"], settings)
    if found:
        raise UsageError(
            f"{output} was made with other settings: {'; '.join(found)}; "
            "choose another --output, or --overwrite to start afresh"
        )


def refuse_overwriting(output: str) -> None:
    """`--overwrite` is for the folder of an earlier run; in any other folder, files of these names are the user's own.

    Raises:
      UsageError: it holds such names, but no run.json.
    """
    if listing.stat_file(paths.join(output, layout.RUN)) is not None:
        return
    folders = (paths.join(folder, "**") for folder in layout.FOLDERS)
    patterns = [*layout.FILES, *folders, *_NAMED]
    for pattern in patterns:
        if found := listing.list_files(paths.join(output, pattern)):
            raise UsageError(
                f"{output} has no {layout.RUN}, so it is not an output of `score`, but it holds {found[0].path}: "
                "choose another --output, or remove that yourself"
            )


def start_afresh(output: str) -> None:
    """Removes what an earlier run left in its folder, and nothing else."""
    for folder in layout.FOLDERS:
        writing.delete_folder(paths.join(output, folder))
    writing.delete(stat.path for pattern in _NAMED for stat in listing.list_files(paths.join(output, pattern)))
    writing.delete(paths.join(output, name) for name in layout.FILES)
