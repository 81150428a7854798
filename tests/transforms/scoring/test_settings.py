"""Settings, their JSON, and that code which moves makes no finished shard stale."""

import json
from dataclasses import replace

import pytest

from odin_beam.transforms.detectors.odin_settings import OdinGrid, OdinSettings
from odin_beam.transforms.images.geometry import Geometry
from odin_beam.transforms.model.preprocessing import Preprocessing
from odin_beam.transforms.scoring.settings import ScoreSettings
from odin_beam.transforms.settings_json import OtherVersion
from odin_beam.transforms.shards.contents.image_list import ImageList
from odin_beam.transforms.shards.contents.noise import Noise
from odin_beam.transforms.shards.contents.surrogates import Surrogate
from odin_beam.transforms.shards.contents.tfrecords import TFRecords
from odin_beam.transforms.shards.shard import FeatureNames, Shard
from odin_beam.transforms.tables.scores_file import fingerprint

LIST = ImageList("listings/photos.parquet", 2048, 100, "ef" * 32)
TFRECORD = Shard("photos", "input", "/data/a.tfrecord", 123, 456.5, "a-0.parquet", TFRecords())
FILES = Shard("photos", "input", "files:/data/*.png", 0, 0.0, "a-0.parquet", LIST)
SHARDS = {
    "records": TFRECORD,
    "named features": replace(TFRECORD, content=TFRecords(FeatureNames("x", "y", "z"))),
    "files": FILES,
    "noise": Shard("n", "out_distribution", "noise:uniform", 0, 0.0, "a-0.parquet", Noise("uniform", 2048, 52)),
    "surrogates": replace(TFRECORD, content=Surrogate("patches", TFRecords())),
    "surrogates of files": replace(FILES, content=Surrogate("averages", LIST)),
}
# What a run computed by default when it wrote the fingerprints below; columns added since are not in them.
DETECTORS = ("odin", "msp", "max_logit", "energy", "neg_entropy", "margin", "gen", "grad_norm", "cam_var", "cam_max")
SETTINGS = {
    "defaults": ScoreSettings("m.keras", "ab" * 32, detectors=DETECTORS),
    "everything": ScoreSettings(
        "gs://b/m.keras",
        "cd" * 32,
        Preprocessing("mean_std", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bgr"),
        Geometry((224, 192), "shorter_side", "center", "bicubic", True, "fast"),
        FeatureNames("i", "l", "k"),
        OdinSettings(10.0, 0.0),
        ("msp", "energy"),
        "mixed",
        "out",
        "a.b:c",
        7,
    ),
    "grid": ScoreSettings("m.keras", "ab" * 32, odin=OdinGrid((1.0, 1000.0), (0.0, 0.0014)), detectors=DETECTORS),
}
# As version 0.1.0 committed them. They may change only together with `ROWS_VERSION`.
FINGERPRINTS = {
    ("defaults", "records"): "c1e0aba1eb3ded3c7b8a4ba143982ad023927896e5a2665882b961c09829da28",
    ("defaults", "named features"): "4541db72ccb9a8b5046647c0e02b69f03d9c68b24576cde452f64ef867bdfc72",
    ("defaults", "files"): "d664959bc9e6cc51e4c171fd03f3079394326b0eac659059917f1aae6b3e1d07",
    ("defaults", "noise"): "5064852814bd054c70c048cfafb65e1a638c27ada9ac8469ccbca32b936cb9ad",
    ("defaults", "surrogates"): "d2011255da1e124291276f7195dbd5b6542d42de2a246f5084fdd817363b5fa1",
    ("defaults", "surrogates of files"): "c2a0362e5d08de6979989d823530f5f6e1ac168eea65927003c3c3fd887a2701",
    ("everything", "records"): "cf27861017129426778273902dfbb058453a87876f105ef473a4580fb4f399c2",
    ("everything", "named features"): "9c9d2806d0a08c8cf85d02e2d4a2500f28d5b3135a28e7c4496b0333b64eac29",
    ("everything", "files"): "6e59ca0d706fba8ab350342a91cb0c5de776a978ae6b3f9216ec959d9efd309b",
    ("everything", "noise"): "31b9d7baff9b2d6df892f37b7f005887f7307bf4157a119dd9b0e5ce85d23bba",
    ("everything", "surrogates"): "910bd7cb61f956b374d4fbde3179132ceb662f2273897ee01add023e02768ee5",
    ("everything", "surrogates of files"): "52ae78b153a22bf1f7f01f0aa08de6b9b4ff7a0d92f89c8a28f9d50d21a3d629",
    ("grid", "records"): "bc1509dbca82bf23ee0f02459d24d9cd7ab0b8666df931b0b6c293cbe950ab3d",
    ("grid", "named features"): "037f9d960fc154862b093a91e0ac5ca76f0081629ec80ec14f7be584f97d626f",
    ("grid", "files"): "3a250e7fd5042dbbaf90003ae78571dcb1a648bc37cb402bace3c0002f2817fb",
    ("grid", "noise"): "3c26f4941672c45adb41342a323e5e9e35ba9b978870ab9115962e5d2891fa52",
    ("grid", "surrogates"): "d825991837023ea51e781b5567261b5e80117c3d5beb8fadde33e8ba2e975897",
    ("grid", "surrogates of files"): "b1f29219c86eb54eea49e4ac94d3751030dfdecd1879017908d259f9fa043558",
}


@pytest.mark.parametrize(("settings", "shard"), FINGERPRINTS)
def test_finished_shards_stay_finished(settings, shard):
    assert fingerprint(SETTINGS[settings].identity(), SHARDS[shard]) == FINGERPRINTS[settings, shard]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_an_identity_gives_the_settings_again(settings):
    identity = json.loads(json.dumps(settings.identity()))
    again = ScoreSettings.from_identity(settings.model, identity, "run.json")
    assert again == replace(settings, batch_size=64, detectors=again.detectors)
    assert again.identity() == settings.identity()


def test_a_detector_named_twice_is_the_same_run():
    twice, once = (ScoreSettings("m", "d", detectors=names) for names in (("msp", "msp"), ("msp",)))
    assert twice.identity() == once.identity()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda identity: identity.pop("geometry"),
            "run.json was written by another version of odin-beam: it lacks",
        ),
        (lambda identity: identity.update(more=1), "it has unknown more"),
        (lambda identity: identity["odin"].update(temperature="hot"), "temperature is 'hot', not float"),
        (lambda identity: identity["geometry"].update(resize="squash"), "resize is one of"),
        (lambda identity: identity.update(features=[1]), r"it has \[1\] for FeatureNames"),
    ],
)
def test_what_another_version_wrote_is_said_to_be(change, message):
    identity = SETTINGS["defaults"].identity()
    change(identity)
    with pytest.raises(OtherVersion, match=message):
        ScoreSettings.from_identity("m", identity, "run.json")
