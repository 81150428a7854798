"""Settings, their JSON, and that code which moves makes no finished shard stale."""

import json
from dataclasses import replace

import pytest

from odin_beam.transforms.detectors.odin_settings import OdinGrid, OdinSettings
from odin_beam.transforms.images.geometry import Geometry
from odin_beam.transforms.model.preprocessing import Preprocessing
from odin_beam.transforms.scoring.settings import ScoreSettings, names_digest
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
# As version 0.1.0 committed them; those of grids and surrogates as the first version with `GRID_SCHEMA_VERSION` 3 did.
# They may change only together with `ROWS_VERSION`.
FINGERPRINTS = {
    ("defaults", "records"): "c1e0aba1eb3ded3c7b8a4ba143982ad023927896e5a2665882b961c09829da28",
    ("defaults", "named features"): "4541db72ccb9a8b5046647c0e02b69f03d9c68b24576cde452f64ef867bdfc72",
    ("defaults", "files"): "d664959bc9e6cc51e4c171fd03f3079394326b0eac659059917f1aae6b3e1d07",
    ("defaults", "noise"): "5064852814bd054c70c048cfafb65e1a638c27ada9ac8469ccbca32b936cb9ad",
    ("defaults", "surrogates"): "9b33ecec17b85673f15d237445b98acb4882df655ff6379e5a9026979309d5e8",
    ("defaults", "surrogates of files"): "d9cd00d91a483a3f7a3e7fd15806203dd1d59a2555c25336eb63fd7dfb5d53e3",
    ("everything", "records"): "cf27861017129426778273902dfbb058453a87876f105ef473a4580fb4f399c2",
    ("everything", "named features"): "9c9d2806d0a08c8cf85d02e2d4a2500f28d5b3135a28e7c4496b0333b64eac29",
    ("everything", "files"): "6e59ca0d706fba8ab350342a91cb0c5de776a978ae6b3f9216ec959d9efd309b",
    ("everything", "noise"): "31b9d7baff9b2d6df892f37b7f005887f7307bf4157a119dd9b0e5ce85d23bba",
    ("everything", "surrogates"): "8e8942032c12b5f4e09a1992a9a64368748c4a81854e547db16389044e3612f6",
    ("everything", "surrogates of files"): "82a901a1846ce0e2209c8170c0e94eebcfe2cfe724066b6dafbb5818a0795595",
    ("grid", "records"): "f7ba78c21768691fa0add7e671273df805637d2b78e3c2ac3067dd9ebe9916a4",
    ("grid", "named features"): "a205c67a7e41974062f802ddafbfdd545f5fb0594b5fe4d4be9acc3ee1a013cd",
    ("grid", "files"): "70a6f6f9197c8c3db3eba42ad70160eb48b2449ffaf1a8391ea97172d1b6fbf6",
    ("grid", "noise"): "08f8a7dc2f785bdc2b618bfc6ca526fd2db8e7bd2f3dac4609d79c7386cf242b",
    ("grid", "surrogates"): "7c8e8705c62cfa1295a0051ffb2c18f37bc68a726377c303727819fef67eddd6",
    ("grid", "surrogates of files"): "19f68246c047a7ed76787505a654f7ccc97de4096176936625c7017da88b30bf",
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


REFERENCED = replace(SETTINGS["defaults"], reference="gs://b/r.npz", reference_digest="ef" * 32)


def test_a_reference_enters_the_fingerprint_by_its_digest():
    identity = REFERENCED.identity()
    assert identity == SETTINGS["defaults"].identity() | {"reference_digest": "ef" * 32}
    assert replace(REFERENCED, reference="/copied/elsewhere.npz").identity() == identity
    assert ScoreSettings.from_identity("m.keras", identity, "run.json", "gs://b/r.npz") == replace(
        REFERENCED, detectors=tuple(identity["detectors"])
    )


def test_class_names_enter_the_fingerprint_by_their_digest_if_the_rows_have_them():
    names = ("cat", "dog")
    named = replace(SETTINGS["defaults"], class_names=names)
    identity = named.identity()
    assert identity == SETTINGS["defaults"].identity() | {"class_names_digest": names_digest(names)}
    assert ScoreSettings.from_identity("m.keras", identity, "run.json", None, names).identity() == identity
    for others in (None, ("dog", "cat")):
        with pytest.raises(OtherVersion, match=r"run\.json is damaged: its class names"):
            ScoreSettings.from_identity("m.keras", identity, "run.json", None, others)
    assert replace(SETTINGS["grid"], class_names=names).identity() == SETTINGS["grid"].identity()


def test_fitted_detectors_need_a_reference():
    assert replace(REFERENCED, detectors=("msp", "mds")).identity()["detectors"] == ["mds", "msp"]
    with pytest.raises(ValueError, match="detectors mds, knn need a `reference`"):
        ScoreSettings("m", "d", detectors=("msp", "mds", "knn"))
    with pytest.raises(ValueError, match="not mdz"):
        replace(REFERENCED, detectors=("mdz",))
