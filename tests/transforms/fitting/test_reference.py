"""What is derived from a fit's statistics: covariances, numbers of neighbours, and what is not available and why."""

import numpy as np
import pytest
from sklearn.covariance import EmpiricalCovariance

from odin_beam.transforms import limits
from odin_beam.transforms.fitting.bank import Bank
from odin_beam.transforms.fitting.clip import FeatureHistogram
from odin_beam.transforms.fitting.feature_rows import LastLayerWeights
from odin_beam.transforms.fitting.moments import Moments
from odin_beam.transforms.fitting.reference import fit_reference, neighbours
from odin_beam.transforms.fitting.residual import principal_dimension
from tests.helpers.feature_fits import fit, images

OF_COVARIANCE = ("mds", "rmds", "mds_unit", "rmds_unit", "gen_mds_unit")


def centred(of):
    h = of.features.astype(np.float64)
    return h, h - np.stack([h[of.labels == c].mean(axis=0) for c in range(of.kernel.shape[1])])[of.labels]


def test_distances_are_those_of_scikit_learn():
    of = images()
    h, within = centred(of)
    found = fit(of).distances
    away = h - h.mean(axis=0)
    z = np.square(away @ found.whitening).sum(axis=1)
    expected = EmpiricalCovariance(assume_centered=True).fit(within).mahalanobis(away)
    np.testing.assert_allclose(z, expected, rtol=1e-8)
    total = z - np.square(away @ found.between).sum(axis=1)
    np.testing.assert_allclose(total, EmpiricalCovariance().fit(h).mahalanobis(h), rtol=1e-8)


def test_with_few_images_both_covariances_get_a_ridge():
    of = images(5 * 12 + 4)
    h, within = centred(of)
    reference = fit(of)
    assert reference.regularised == OF_COVARIANCE
    assert reference.discouraged == ()
    covariance = within.T @ within / len(h)
    ridge = 1e-2 * np.trace(covariance) / 12 * np.eye(12)
    found = reference.distances
    inverse = found.whitening @ found.whitening.T
    np.testing.assert_allclose(inverse, np.linalg.inv(covariance + ridge), rtol=1e-8, atol=1e-10)
    total = np.cov(h.T, bias=True) + ridge
    np.testing.assert_allclose(inverse - found.between @ found.between.T, np.linalg.inv(total), rtol=1e-8, atol=1e-10)
    assert fit(images(5 * 12 + 5)).regularised == ()


def test_with_fewer_images_than_features_the_columns_are_discouraged():
    assert fit(images(5 + 11)).discouraged == OF_COVARIANCE
    assert fit(images(5 + 12)).discouraged == ()


def test_features_that_never_vary_do_not_count():
    of = images()
    dead = np.concatenate([of.kernel, np.ones((2, 5), np.float32)])
    wider = of._replace(kernel=dead).with_features(np.pad(of.features, [[0, 0], [0, 2]]))
    found, expected = fit(wider).distances, fit(of).distances
    assert found.whitening.shape == (14, 12)
    np.testing.assert_allclose(found.offsets, expected.offsets, rtol=1e-8)
    np.testing.assert_allclose(
        (found.between @ found.between.T)[:12, :12], expected.between @ expected.between.T, rtol=1e-7
    )


def test_the_residual_is_what_the_paper_says():
    of = images()
    reference, h = fit(of), of.features.astype(np.float64)
    origin = -np.linalg.pinv(of.kernel.T.astype(np.float64)) @ of.bias
    values, vectors = np.linalg.eigh((h - origin).T @ (h - origin) / len(h))
    outside = (h - origin) @ vectors[:, np.argsort(values)[::-1][6:]]
    norms = np.linalg.norm(outside, axis=1)
    np.testing.assert_allclose(np.linalg.norm((h - origin) @ reference.residual.basis, axis=1), norms, rtol=1e-8)
    assert float(reference.residual.alpha) == pytest.approx(of.logits.max(axis=1).mean() / norms.mean(), rel=1e-6)


@pytest.mark.parametrize(("width", "dimension"), [(1, 0), (342, 171), (767, 383), (768, 512), (2048, 1000)])
def test_the_principal_dimension_follows_from_the_width(width, dimension):
    assert principal_dimension(width) == dimension


@pytest.mark.parametrize(
    ("rows", "classes", "expected"),
    [(10_000, 10, (50, 100)), (10_000, 1000, (1, 1)), (2_000, 10, (10, 20)), (1, 10, (1, 1)), (40, 1, (2, 4))],
)
def test_numbers_of_neighbours_follow_from_the_rows_a_class(rows, classes, expected):
    assert neighbours(rows, classes) == expected


def test_one_class_and_a_class_of_one_image_are_fitted():
    of = images()
    one = fit(of._replace(labels=np.zeros(400, int)))
    assert np.isfinite(one.distances.offsets).tolist() == [True, False, False, False, False]
    of.labels[of.labels == 3] = 2
    of.labels[0] = 3
    assert fit(of).counts[3] == 1
    assert np.isfinite(fit(of).distances.offsets).all()


def unavailable(of, **kwargs):
    return fit(of, **kwargs).unavailable


def test_what_is_not_available_has_a_reason(monkeypatch):
    of = images()
    assert unavailable(of) == {}
    assert unavailable(of.with_features(of.features - 1)) == {"react": "features are negative"}
    wrong = of._replace(labels=(of.predictions + 1) % 5)
    assert unavailable(wrong) == {"she": "no image was classified correctly"}
    assert unavailable(of._replace(logits=of.logits - 1000)) == {"nnguide": "no energy is above 0"}
    few = unavailable(images(6))
    assert few["vim"] == "6 images; more than 6 are needed"
    flat = unavailable(of.with_features(np.zeros_like(of.features)))
    assert flat["mds"] == flat["rmds_unit"] == "features do not vary within classes"
    assert flat["knn"] == flat["nnguide"] == "all features are 0"
    monkeypatch.setattr(limits, "MAX_CLASS_MEANS", 59)
    reason = "5 classes of 12 features; the limit is 59 in all"
    assert unavailable(of) == dict.fromkeys((*OF_COVARIANCE, "she"), reason)
    monkeypatch.setattr(limits, "MAX_SCATTER_WIDTH", 11)
    assert unavailable(of)["vim"] == "12 features; the limit is 11"


def test_features_in_the_principal_space_have_no_residual():
    of = images()
    narrow = of.with_features(of.features * (np.arange(12) < 3))._replace(bias=np.zeros(5, np.float32))
    assert unavailable(narrow)["vim"] == "features have no residual"


def test_the_bank_leaves_out_features_of_zero():
    of = images()
    of.features[:100] = 0
    bank = fit(of, rows=5000).bank
    assert len(bank) == 300
    np.testing.assert_allclose(np.linalg.norm(bank, axis=1), 1, rtol=1e-6)


def test_without_images_there_is_no_reference():
    with pytest.raises(ValueError, match="no images"):
        fit_reference(
            Moments(2, 3), FeatureHistogram(), Bank(2, 3, 10), LastLayerWeights(np.ones((3, 2)), np.ones(2)), None
        )


def test_the_digest_is_that_of_what_scores_depend_on():
    of = images()
    assert fit(of).digest == fit(of, made="elsewhere").digest
    assert fit(of).digest != fit(of, rows=100).digest
    assert fit(of).digest != fit(images(seed=1)).digest
