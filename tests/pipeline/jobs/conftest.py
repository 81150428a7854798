"""One small model and one archive for the jobs; runs that many tests start from are made once."""

import shutil

import numpy as np
import pytest

from odin_beam.pipeline.main import main
from tests.helpers import samples
from tests.helpers.score_runs import command, restore


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return samples.save_model(samples.small_model(), tmp_path_factory.mktemp("model") / "small.keras")


@pytest.fixture(scope="session")
def archive_folder(tmp_path_factory):
    """Where the archive lies in every test, and a copy of it: three sources in six shards, labelled in-distribution,
    foreign and unknown.
    """
    folder, copy = tmp_path_factory.mktemp("archive"), tmp_path_factory.mktemp("kept") / "archive"
    rng = np.random.default_rng(1)
    inside = samples.random_images(50, seed=1)
    for i in range(3):
        part = inside[i * 20 : (i + 1) * 20]
        samples.write_shard(folder / f"in-{i}.tfrecord", samples.examples(part, rng.integers(0, 4, len(part)).tolist()))
    outside = samples.random_images(30, seed=2) // 2
    samples.write_shard(folder / "out-0.tfrecord", samples.examples(outside[:15]))
    samples.write_shard(folder / "out-1.tfrecord.gz", samples.examples(outside[15:]))
    samples.write_shard(folder / "new-0.tfrecord", samples.examples(samples.random_images(10, seed=3)))
    shutil.copytree(folder, copy)
    return folder, copy


@pytest.fixture(scope="session")
def scored_copy(model, archive_folder, tmp_path_factory):
    """A copy of the archive with the output of a run in `out`."""
    folder, copy = archive_folder
    restore(folder, copy)
    assert main(command(model, folder)) == 0
    return shutil.copytree(folder, tmp_path_factory.mktemp("kept") / "scored")


@pytest.fixture
def archive(archive_folder):
    """The archive, without output."""
    return restore(*archive_folder)


@pytest.fixture
def scored(archive, scored_copy):
    """Makes of the archive what `main(command(model, archive))` makes of it."""
    restore(archive, scored_copy)
