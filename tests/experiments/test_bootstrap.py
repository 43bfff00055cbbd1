"""The bootstrap: its metrics are the pipeline's, its intervals and p values are correct."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from image_pipeline.evaluation.metrics import Calibration
from image_pipeline.experiments import bootstrap as module
from image_pipeline.experiments.bootstrap import ModelPredictions, bootstrap
from image_pipeline.experiments.significance import significant


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


def test_interval_of_a_mean_equals_the_textbook_formula() -> None:
    for images in (2_000, 40_000):
        actual, first, second = pair(images, (0.1, 0.1), 1)
        found = bootstrap(actual, first, second, 4, 15)["loss"]
        assert first.loss is not None
        assert second.loss is not None
        difference = second.loss - first.loss
        half = 1.96 * difference.std() / np.sqrt(images)
        expected = difference.mean() - half, difference.mean() + half
        assert found.interval == pytest.approx(expected, abs=0.06 * half)


def test_differences_are_significant_and_deterministic() -> None:
    actual, first, second = pair(3_000, (0.02, 0.05), 2)
    found = bootstrap(actual, first, second, 4, 15)
    macro_f1, loss = found["macro_f1"], found["loss"]
    assert macro_f1.p
    assert macro_f1.p < 0.001
    assert macro_f1.interval
    assert macro_f1.interval[1] < 0
    assert loss.interval
    assert loss.interval[0] > 0
    assert bootstrap(actual, first, second, 4, 15) == found


def test_a_model_compared_with_itself() -> None:
    actual, first, _ = pair(12_000, (0.1, 0.1), 3)
    for metric in bootstrap(actual, first, first, 4, 15).values():
        assert metric.p == 1
        assert metric.interval == pytest.approx((0, 0), abs=1e-8)


def test_without_probabilities_loss_is_left_out() -> None:
    actual, first, second = pair(500, (0.1, 0.1), 4)
    without = ModelPredictions(second.predicted, second.confidence, None)
    found = bootstrap(actual, first, without, 4, 15)
    assert list(found) == ["macro_f1", "expected_calibration_error"]


@pytest.mark.slow
def test_equal_models_rarely_differ_significantly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESAMPLES", 999)
    found = pd.DataFrame(
        [
            {
                name: significant(each.p)
                for name, each in bootstrap(*pair(1_000, (0.1, 0.1), i), 4, 15).items()
            }
            for i in range(10, 510)
        ]
    ).mean()
    assert found.between(0.02, 0.08).all(), found.to_dict()
