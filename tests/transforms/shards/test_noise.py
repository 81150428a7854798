"""Noise images: the paper's distributions, each image determined by its index."""

import math

import numpy as np
import pytest
import scipy.stats

from odin_beam.transforms.shards.contents.noise import DISTRIBUTIONS, noise_image


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_an_image_is_determined_by_distribution_and_index(distribution):
    first, again = (noise_image(distribution, 7, (8, 6, 3)) for _ in range(2))
    assert first.shape == (8, 6, 3)
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - noise_image(distribution, 8, (8, 6, 3))).max() > 0.1


def test_uniform_noise_is_uniform():
    values = np.stack([noise_image("uniform", i, (16, 16, 3)) for i in range(200)]).ravel()
    assert 0 <= values.min() < values.max() <= 1
    assert scipy.stats.kstest(values, "uniform").statistic < 0.005


def test_gaussian_noise_is_a_gaussian_of_mean_a_half_and_deviation_1_clipped():
    values = np.stack([noise_image("gaussian", i, (16, 16, 3)) for i in range(200)]).ravel()
    tail = 0.5 * math.erfc(0.5 / math.sqrt(2))
    assert np.mean(values == 0) == pytest.approx(tail, abs=0.005)
    assert np.mean(values == 1) == pytest.approx(tail, abs=0.005)
    inside = values[(values > 0) & (values < 1)]
    assert scipy.stats.kstest(inside, scipy.stats.truncnorm(-0.5, 0.5, loc=0.5).cdf).statistic < 0.01


def test_the_two_distributions_and_neighbouring_images_are_not_correlated():
    images = [noise_image(name, i, (32, 32, 3)).ravel() for name in DISTRIBUTIONS for i in (0, 1)]
    correlations = np.corrcoef(images) - np.eye(4)
    assert np.abs(correlations).max() < 0.1
