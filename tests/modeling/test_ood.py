"""Out-of-distribution detection: statistics, distances, thresholds."""

import numpy as np
import pytest

from image_pipeline.modeling.ood import (
    MIN_DEVIATION,
    TrainingStatistics,
    fit_thresholds,
    is_out_of_distribution,
)

RNG = np.random.default_rng(0)


def test_statistics_are_the_mean_and_deviation_of_each_pixel() -> None:
    images = RNG.integers(0, 256, (300, 3, 4, 5), np.uint8)
    statistics = TrainingStatistics.of_images([images[:1], images[1:200], images[200:]])
    assert statistics.mean.dtype == statistics.deviation.dtype == np.uint8
    assert np.array_equal(statistics.mean, np.rint(images.mean(axis=0)))
    assert np.array_equal(statistics.deviation, np.rint(images.std(axis=0)))


def test_the_distance_is_scaled_by_each_pixels_variance() -> None:
    mean, deviation = np.array([[[100, 0, 7]]], np.uint8), np.array([[[40, 20, 0]]], np.uint8)
    statistics = TrainingStatistics(mean, deviation)
    images = np.array([[[[100, 0, 7]]], [[[20, 0, 7]]], [[[100, 0, 37]]]], np.uint8)
    expected = [0, (80 / 40) ** 2 / 3, (30 / MIN_DEVIATION) ** 2 / 3]
    assert statistics.distances(images) == pytest.approx(expected, rel=1e-3)


def test_one_validation_image_in_a_hundred_is_out_of_distribution() -> None:
    logits, distances = RNG.normal(size=6000), RNG.normal(size=6000)
    thresholds = fit_thresholds(logits, distances)
    assert (logits < thresholds.logit).sum() == (distances > thresholds.distance).sum() == 30
    assert 55 <= is_out_of_distribution(logits, distances, thresholds).sum() <= 60
    few = fit_thresholds(logits[:9], distances[:9])
    assert not is_out_of_distribution(logits[:9], distances[:9], few).any()
