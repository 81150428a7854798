"""References of settings: read where they are needed, and never another one than the run was launched with."""

import pytest

from odin_beam.transforms.detectors.registry import ALL
from odin_beam.transforms.errors import FeatureReferenceError
from odin_beam.transforms.fitting.reference_file import write_reference
from odin_beam.transforms.model.preprocessing import Preprocessing
from odin_beam.transforms.scoring.own_reference import read_own_reference
from odin_beam.transforms.scoring.settings import ScoreSettings
from tests.helpers import samples
from tests.helpers.feature_fits import about, fit, images


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return samples.save_model(samples.small_model(), tmp_path_factory.mktemp("model") / "small.keras")


@pytest.fixture
def path(model, tmp_path):
    path = str(tmp_path / "reference.npz")
    write_reference(path, fit(images(), **about(ScoreSettings.for_model(model))))
    return path


def test_with_a_reference_all_detectors_are_computed(model, path):
    settings = ScoreSettings.for_model(model, reference=path)
    assert settings.detectors == tuple(ALL)
    assert (settings.reference, settings.reference_digest) == (path, fit(images()).digest)
    assert ScoreSettings.for_model(model, reference=path, detectors=("mds",)).detectors == ("mds",)
    assert read_own_reference(settings).digest == settings.reference_digest
    assert read_own_reference(ScoreSettings.for_model(model)) is None


def test_precision_may_differ(model, path):
    assert ScoreSettings.for_model(model, reference=path, precision="mixed").reference == path


def test_a_reference_that_has_changed_since_is_refused(model, path):
    settings = ScoreSettings.for_model(model, reference=path)
    write_reference(path, fit(images(seed=1), **about(settings)))
    with pytest.raises(FeatureReferenceError, match="has changed since the run was launched"):
        read_own_reference(settings)


def test_what_differs_is_named(model, path):
    with pytest.raises(FeatureReferenceError, match=r'preprocessing\.name was "unit", is "byte"'):
        ScoreSettings.for_model(model, reference=path, preprocessing=Preprocessing("byte"))
    other = ScoreSettings("other.keras", "d")
    write_reference(path, fit(images(), **about(other)))
    with pytest.raises(FeatureReferenceError, match="fitted to a different model"):
        ScoreSettings.for_model(model, reference=path)
    write_reference(path, fit(images()))
    with pytest.raises(FeatureReferenceError, match="fitted to a different model"):
        ScoreSettings.for_model(model, reference=path)
