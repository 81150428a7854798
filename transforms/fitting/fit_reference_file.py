"""From the committed features of a run to `reference.npz`: only shards and paths of files cross a shuffle."""

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import apache_beam as beam
import numpy as np

from odin_beam.transforms import __version__
from odin_beam.transforms.detectors.registry import FITTED_DETECTORS
from odin_beam.transforms.errors import FeatureReferenceError, StorageError
from odin_beam.transforms.fitting.feature_rows import read_last_layer
from odin_beam.transforms.fitting.fit_steps import FitSteps, read_counts, read_residual_sum, read_subspace
from odin_beam.transforms.fitting.reference import Reference, fit_reference
from odin_beam.transforms.fitting.reference_file import read_reference, write_reference
from odin_beam.transforms.fitting.statistics_file import state_of
from odin_beam.transforms.metrics.summarize_scores import RunFacts, find_orphans, summary_report
from odin_beam.transforms.shards.manifest_file import manifest_digest, read_own_manifest, roles_of
from odin_beam.transforms.shards.shard import Shard
from odin_beam.transforms.storage import listing, writing
from odin_beam.transforms.tables import layout, run_file
from odin_beam.transforms.tables.json_files import read_json, write_json

# Key of a summary, and of what a reference says about itself.
FIT = "fit"


@dataclass(frozen=True)
class ReferenceFit:
    """A reference that is to be made.

    Attributes:
      steps: where the features are, and what to make of them.
      output: absolute path of the reference.
      fit: see `fit_digest`.
      facts: of the run, for its summary.
    """

    steps: FitSteps
    output: str
    fit: str
    facts: RunFacts


def fit_digest(identity: dict[str, Any], shards: Iterable[Shard], bank: int, sample: int) -> str:
    """SHA-256, in hex, of all that a reference depends on: a finished one is not made again."""
    return state_of(identity, manifest_digest(shards), bank, sample)


def finished_reference(path: str, fit: str) -> Reference | None:
    """The reference at that path, if it was made by this fit.

    Raises:
      FeatureReferenceError: there is a file that is not a reference.
      StorageError: it cannot be read.
    """
    if listing.stat_file(path) is None:
        return None
    reference = read_reference(path)
    return reference if reference.about.get(FIT) == fit else None


@dataclass
class FitReference(beam.PTransform):
    """{`finished`: `Shard`s, `failed`: (`Shard`, reason)} of features -> the reference, then `summary.json`.

    If a shard failed there is no reference: it would depend on which one.

    Args:
      fit: what to make.
    """

    fit: ReferenceFit

    def expand(self, shards) -> beam.PCollection[str]:
        steps, pipeline = self.fit.steps, shards["finished"].pipeline
        groups = (
            shards["finished"]
            | "Group" >> beam.Map(lambda shard: (steps.group_of(shard), shard))
            | beam.GroupByKey()
            | "Spread" >> beam.Reshuffle()
        )

        def of_groups(name: str, step: Callable[..., str], *sides) -> beam.pvalue.DoOutputsTuple:
            made = beam.ParDo(_OfGroup(step), *sides).with_outputs("failed", main="paths")
            return groups | name >> made

        def of_all(name: str, step: Callable[..., str | None], parts: beam.PCollection[str], *sides):
            once = pipeline | f"{name}/Once" >> beam.Create([steps.folder])
            # The next step of the groups has nothing to do if one of them failed.
            made = beam.FlatMap(_of_all, step, beam.pvalue.AsList(parts), *sides)
            return once | name >> made

        failed = shards["failed"]
        digests = of_groups("ReadDigests", steps.read_digests)
        problems = (failed, digests.failed) | "Unreadable" >> beam.Flatten()
        sample = of_all("ChooseSample", steps.choose_sample, digests.paths, beam.pvalue.AsList(problems))
        moments = of_groups("ReadMoments", steps.read_moments, beam.pvalue.AsList(sample))
        merged = of_all("MergeMoments", steps.merge_moments, moments.paths, beam.pvalue.AsList(moments.failed))
        sides = beam.pvalue.AsList(sample), beam.pvalue.AsList(merged)
        residuals = of_groups("ReadResiduals", steps.read_residuals, *sides)
        problems = (problems, moments.failed, residuals.failed) | "Failed" >> beam.Flatten()
        return (
            pipeline
            | "Once" >> beam.Create([steps.folder])
            | "WriteReference"
            >> beam.Map(
                _finish,
                self.fit,
                beam.pvalue.AsList(shards["finished"]),
                beam.pvalue.AsList(failed),
                beam.pvalue.AsList(problems),
                beam.pvalue.AsList(digests.paths),
                beam.pvalue.AsList(merged),
                beam.pvalue.AsList(residuals.paths),
            )
        )


class _OfGroup(beam.DoFn):
    """(group, its `Shard`s) -> the path of a file; a group that cannot be read: (`Shard`, reason) to `failed`.

    The step before it gives a list of one path, or of none if it made nothing; then this one makes nothing either.
    """

    def __init__(self, step: Callable[..., str]):
        self._step = step

    def process(self, element: tuple[int, Iterable[Shard]], *before):
        if not all(before):
            return
        group, shards = element
        shards = sorted(shards, key=lambda shard: (shard.source, shard.path, shard.file_name))
        try:
            yield self._step(group, shards, *(paths[0] for paths in before))
        except StorageError as e:
            # The message names the file.
            named = [shard for shard in shards if shard.file_name in str(e)]
            yield beam.pvalue.TaggedOutput("failed", ((named or shards)[0], str(e)))


def _of_all(folder: str, step: Callable[..., str | None], parts: list[str], failed: list) -> Iterable[str]:
    path = step(parts) if parts and not failed else None
    return [] if path is None else [path]


def _finish(
    folder: str,
    fit: ReferenceFit,
    finished: list[Shard],
    failed: list[tuple[Shard, str]],
    problems: list[tuple[Shard, str]],
    digests: list[str],
    merged: list[str],
    residuals: list[str],
) -> str:
    """Writes the reference, if there are images and no shard failed, and then the completion marker.

    Raises:
      OutputTakenError: the folder now belongs to another run, and so does the reference.
    """
    identity = fit.steps.identity
    run_file.check_owner(folder, identity)
    shards = read_own_manifest(folder, manifest_digest([*finished, *(shard for shard, _ in failed)]))
    if _is_done(folder, fit):
        # A worker died between this step and the report of its end.
        return folder
    counts, told = read_counts(digests), None
    if merged and not problems:
        told = _write_reference(fit, merged[0], residuals, shards)
    orphans = find_orphans(folder, shards, layout.FEATURES)
    summary = summary_report(fit.facts, roles_of(shards), counts, problems, orphans) | {FIT: told}
    write_json(folder, layout.SUMMARY, summary)
    writing.delete_temporary(folder, {shard.file_name for shard in finished})
    if told:
        writing.delete_folder(layout.statistics_folder(folder))
    run_file.check_owner(folder, identity)
    return folder


def _is_done(folder: str, fit: ReferenceFit) -> bool:
    summary = read_json(folder, layout.SUMMARY) or {}
    return (summary.get(FIT) or {}).get("digest") == fit.fit and listing.stat_file(fit.output) is not None


def _write_reference(fit: ReferenceFit, subspace: str, residuals: Sequence[str], shards: list[Shard]) -> dict[str, Any]:
    """Writes the reference unless this fit has done so before; returns what the summary says of it."""
    sums, digests = fit.steps.merged(), fit.steps.fitted_digests()
    images, labelled, _ = (int(number) for number in sums.by_class.sum(axis=1))
    try:
        reference = finished_reference(fit.output, fit.fit)
    except FeatureReferenceError:
        reference = None
    if reference is None:
        about = {
            FIT: fit.fit,
            **fit.steps.identity,
            "images": images,
            "classes_from": {"labels": labelled, "predictions": images - labelled},
            "bank": fit.steps.bank,
            "bank_images": len(sums.bank),
            "sample": fit.steps.sample,
            "sources": sorted({shard.source for shard in shards}),
            "shards": len(shards),
            "versions": {
                "odin_beam": __version__,
                "numpy": np.__version__,
                "scipy": metadata.version("scipy"),
                "tensorflow": metadata.version("tensorflow"),
                "python": platform.python_version(),
            },
        }
        weights, total = read_last_layer(fit.steps.folder), read_residual_sum(residuals)
        reference = fit_reference(
            sums.moments, sums.histogram, sums.bank, weights, read_subspace(subspace), total, about, digests
        )
        write_reference(fit.output, reference)
    return {
        "digest": fit.fit,
        "reference": fit.output,
        "reference_digest": reference.digest,
        "bytes": listing.stat_file(fit.output).size,
        "images": images,
        "classes_from": dict(reference.about["classes_from"]),
        "bank_images": len(sums.bank),
        "knn_k": reference.knn_k,
        "nnguide_k": reference.nnguide_k,
        "detectors": [name for name in FITTED_DETECTORS if name not in reference.unavailable],
        "unavailable": dict(reference.unavailable),
        "regularised": list(reference.regularised),
        "discouraged": list(reference.discouraged),
        "classes": {
            name: row.tolist() for name, row in zip(("images", "labelled", "correct"), sums.by_class, strict=True)
        },
    }
