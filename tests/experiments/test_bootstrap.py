"""The bootstrap: its metrics are the pipeline's, its intervals and p values are correct."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import f1_score

from image_pipeline.evaluation.metrics import Calibration
from image_pipeline.experiments.bootstrap import ModelPredictions, bootstrap


def model(actual: np.ndarray, classes: int, errors: float, seed: int) -> ModelPredictions:
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(actual)) < errors
    predicted = np.where(wrong, rng.integers(0, classes, len(actual)), actual)
    confidence = rng.beta(20, 1, len(actual)).clip(1 / classes)
    probability = np.where(predicted == actual, confidence, (1 - confidence).clip(1e-6))
    return ModelPredictions(predicted, confidence, -np.log(probability))


def pair(
    images: int, errors: tuple[float, float], seed: int
) -> tuple[np.ndarray, ModelPredictions, ModelPredictions]:
    actual = np.random.default_rng(seed).integers(0, 4, images)
    first, second = (model(actual, 4, share, 2 * seed + i) for i, share in enumerate(errors))
    return actual, first, second


@pytest.mark.parametrize("images", [300, 25_000])  # resampled one by one, and in blocks
def test_metrics_equal_those_of_the_pipeline(images: int) -> None:
    actual, first, second = pair(images, (0.1, 0.2), 0)
    found = bootstrap(actual, first, second, 5, 15)
    for index, predictions in enumerate((first, second)):
        values = {name: (each.a, each.b)[index] for name, each in found.items()}
        expected = f1_score(
            actual, predictions.predicted, labels=range(5), average="macro", zero_division=0.0
        )
        assert values["macro_f1"] == pytest.approx(expected, abs=1e-12)
        calibration = Calibration(15)
        calibration.update(predictions.confidence, predictions.predicted == actual)
        assert values["expected_calibration_error"] == pytest.approx(calibration.error(), abs=1e-12)
        assert predictions.loss is not None
        assert values["loss"] == pytest.approx(predictions.loss.mean(), abs=1e-12)


@pytest.mark.parametrize(("images", "seed"), [(2_000, 1), (2_000, 5), (2_000, 6), (40_000, 1)])
def test_interval_and_p_value_of_a_mean_equal_the_textbook_formulas(images: int, seed: int) -> None:
    actual, first, second = pair(images, (0.1, 0.1), seed)
    found = bootstrap(actual, first, second, 4, 15)["loss"]
    assert first.loss is not None
    assert second.loss is not None
    difference = second.loss - first.loss
    error = difference.std() / np.sqrt(images)
    expected = difference.mean() - 1.96 * error, difference.mean() + 1.96 * error
    assert found.interval == pytest.approx(expected, abs=0.12 * error)
    assert found.p == pytest.approx(2 * norm.cdf(-abs(difference.mean()) / error), abs=0.02)


def test_differences_are_significant_and_deterministic() -> None:
    actual, first, second = pair(3_000, (0.02, 0.05), 2)
    found = bootstrap(actual, first, second, 4, 15)
    assert (found["macro_f1"].p or 1) < 0.001
    assert max(found["macro_f1"].interval or [1]) < 0 < min(found["loss"].interval or [-1])
    assert bootstrap(actual, first, second, 4, 15) == found


def test_a_model_compared_with_itself() -> None:
    actual, first, _ = pair(12_000, (0.1, 0.1), 3)
    for metric in bootstrap(actual, first, first, 4, 15).values():
        assert metric.p == 1
        assert metric.interval == pytest.approx((0, 0), abs=1e-8)
