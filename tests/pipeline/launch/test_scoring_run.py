"""What a run knows of itself before it starts."""

from types import SimpleNamespace

import pytest

from odin_beam.pipeline.launch import scoring_run
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.tables import layout


@pytest.mark.parametrize(("overwrite", "left"), [(False, [300]), (True, [100, 200, 300])])
def test_only_shards_without_scores_count_as_work(tmp_path, overwrite, left):
    folder = layout.scores_folder(str(tmp_path))
    paths = [f"{folder}/source=s/{i}.parquet" for i in range(3)]
    (tmp_path / "scores/source=s").mkdir(parents=True)
    for path in paths[:2]:
        with open(path, "wb"):
            pass
    run = SimpleNamespace(
        settings=ScoreSettings("/m.keras", "d"),
        output=str(tmp_path),
        overwrite=overwrite,
        expected=dict(zip(paths, [100, 200, 300], strict=True)),
    )
    assert scoring_run.images_to_do(run) == left
