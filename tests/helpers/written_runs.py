"""Folders of `score` runs with given scores, without a model or images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.shards.manifest_file import write_manifest
from odin_beam.transforms.tables import run_file, schemas, scores_file
from tests.helpers import samples

# An image: its predicted class and the score that every detector gives it; None for no score.
Image = tuple[int, float | None]


def write_run(
    folder: Path, sources: Mapping[str, Sequence[Sequence[Image]]], detectors=("msp", "gen"), **settings
) -> Path:
    """A run's folder, `folder`/scores, as `score` leaves it but for its metrics and its summary.

    Args:
      folder: where shards are, too.
      sources: name -> shards -> images.
      detectors: that have scores.
      settings: of the run, besides.
    """
    output, written = folder / "scores", ScoreSettings("/m.keras", "d", detectors=tuple(detectors), **settings)
    shards = {
        samples.shard(samples.write_shard(folder / f"{name}-{i}.tfrecord", []), name, "input"): images
        for name, parts in sources.items()
        for i, images in enumerate(parts)
    }
    run_file.claim(str(output), written)
    write_manifest(str(output), list(shards))
    for shard, images in shards.items():
        rows = [
            dict.fromkeys(schemas.SCORE_SCHEMA.names)
            | {"shard": shard.path, "index": i, "id": f"{shard.source}/{i}", "prediction": predicted}
            | dict.fromkeys(detectors, score)
            for i, (predicted, score) in enumerate(images)
        ]
        with scores_file.ScoresWriter(str(output), shard) as writer:
            writer.write(pa.RecordBatch.from_pylist(rows, schemas.SCORE_SCHEMA), [])
            writer.commit(scores_file.fingerprint(written.identity(), shard), len(rows), "linear", {})
    return output
