"""The list of shards that a run is about."""

from dataclasses import replace

import apache_beam as beam
import pytest
from apache_beam.testing.util import assert_that, equal_to

from odin_beam.transforms import errors
from odin_beam.transforms.shards import manifest, manifest_file
from odin_beam.transforms.shards.contents.image_list import ImageList
from odin_beam.transforms.shards.contents.noise import Noise
from odin_beam.transforms.shards.contents.surrogates import Surrogate
from odin_beam.transforms.shards.contents.tfrecords import TFRecords
from odin_beam.transforms.shards.shard import FeatureNames
from tests.helpers import samples


@pytest.fixture
def shards(tmp_path):
    content = [TFRecords(), TFRecords(FeatureNames("img")), ImageList("l", 5, 6, "d1"), Noise("uniform", 7, 8)]
    content += [Surrogate("patches", other) for other in content]
    path = samples.write_shard(tmp_path / "x.tfrecord", [b"x"])
    return [replace(samples.shard(path), content=one, file_name=str(i)) for i, one in enumerate(content)]


def test_what_was_written_is_read(tmp_path, shards):
    manifest_file.write_manifest(str(tmp_path), shards)
    assert manifest_file.read_manifest(str(tmp_path)) == shards


def test_the_workers_read_it_from_the_folder(tmp_path, shards):
    manifest_file.write_manifest(str(tmp_path), shards)
    with beam.Pipeline(runner="FnApiRunner") as pipeline:
        assert_that(pipeline | manifest.ReadManifest(str(tmp_path)), equal_to(shards))


def test_a_run_reads_its_own_in_any_order_and_no_other(tmp_path, shards):
    folder, digest = str(tmp_path), manifest_file.manifest_digest(shards)
    manifest_file.write_manifest(folder, shards[::-1])
    assert manifest_file.read_own_manifest(folder, digest) == shards[::-1]
    for other in (shards[1:], [replace(shards[0], modified=1.0), *shards[1:]]):
        manifest_file.write_manifest(folder, other)
        with pytest.raises(errors.OutputTakenError, match=r"another run, with other inputs, has since started in"):
            manifest_file.read_own_manifest(folder, digest)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "is listed 2 times"),
        ({"file_name": "other"}, "is listed 2 times"),
        ({"path": "/other", "role": "input"}, "is listed 2 times"),
        ({"path": "/other", "file_name": "other", "role": "out_distribution"}, "has the roles"),
        ({"source": "new", "role": "mine"}, "has the role 'mine'"),
    ],
)
def test_shards_that_contradict_each_other_are_damage(tmp_path, shards, more, message):
    manifest_file.write_manifest(str(tmp_path), [*shards, replace(shards[0], **more)])
    with pytest.raises(errors.StorageError, match=rf"manifest\.parquet is damaged: .*{message}"):
        manifest_file.read_manifest(str(tmp_path))


@pytest.mark.parametrize(
    "names", [{"source": "x/../../y"}, *({"file_name": n} for n in ("../../y.parquet", "..", "a\0"))]
)
def test_names_that_lead_out_of_the_folder_are_damage(tmp_path, shards, names):
    manifest_file.write_manifest(str(tmp_path), [replace(shards[0], **names)])
    with pytest.raises(errors.StorageError, match="are not names"):
        manifest_file.read_manifest(str(tmp_path))


@pytest.mark.parametrize("content", [None, b"", b"PAR1 garbage"])
def test_one_that_is_absent_or_damaged_is_a_storage_error_that_names_it(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.parquet").write_bytes(content)
    with pytest.raises(errors.StorageError, match=r"manifest\.parquet"):
        manifest_file.read_manifest(str(tmp_path))
