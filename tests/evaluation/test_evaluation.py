"""Metrics against values worked out by hand."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from image_pipeline.evaluation.metrics import Calibration, Evaluation

CLASSES = ("cat", "dog", "owl")
# Predicted: cat, cat, dog, dog, cat. One error: the last, a dog taken for a cat. There is no owl.
PROBABILITIES = np.array(
    [[0.9, 0.1, 0.0], [0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1]]
)
LABELS = np.array([0, 0, 1, 1, 1])


def evaluate(
    probabilities: np.ndarray = PROBABILITIES,
    labels: np.ndarray = LABELS,
    names: tuple[str, ...] = CLASSES,
) -> tuple[dict[str, Any], Evaluation, pd.DataFrame]:
    """Evaluate in batches of two; return the metrics, the evaluation, and a row per image."""
    evaluation = Evaluation(names, bins=10)
    rows = [
        evaluation.update(probabilities[start : start + 2], labels[start : start + 2])
        for start in range(0, len(labels), 2)
    ]
    return evaluation.compute(), evaluation, pd.concat(rows)


def test_metrics_by_hand() -> None:
    metrics, evaluation, rows = evaluate()
    assert (metrics["accuracy"], metrics["errors"], metrics["images"]) == (0.8, 1, 5)
    # Wilson's: (p + z^2 / 2n -+ z * sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), z = 1.96.
    assert metrics["accuracy_interval_95"] == pytest.approx([0.3755, 0.9638], abs=5e-5)
    of_actual = [0.9, 0.8, 0.6, 0.7, 0.4]
    assert metrics["loss"] == pytest.approx(-np.log(of_actual).mean())
    assert rows.to_dict("list") == {
        "actual": ["cat", "cat", "dog", "dog", "dog"],
        "predicted": ["cat", "cat", "dog", "dog", "cat"],
        "confidence": [0.9, 0.8, 0.6, 0.7, 0.5],
        "probability_of_actual": of_actual,
    }
    reliability = evaluation.calibration.table()  # confidence 0.9, 0.8, 0.6, 0.7; 0.5 for the error
    assert reliability["confidence"].tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])
    assert reliability["accuracy"].tolist() == [0, 1, 1, 1, 1]
    # cat: precision 2/3, recall 1, F1 4/5; dog: 1, 2/3, 4/5; owl: no images, no predictions.
    classes = evaluation.per_class()
    assert classes["class"].tolist() == list(CLASSES)
    assert classes["images"].tolist() == [2, 3, 0]
    assert classes["precision"].tolist() == pytest.approx([2 / 3, 1, 0])
    assert classes["recall"].tolist() == pytest.approx([1, 2 / 3, 0])
    assert classes["f1"].tolist() == pytest.approx([0.8, 0.8, 0])
    assert metrics["macro_f1"] == pytest.approx(1.6 / 3)


@pytest.mark.parametrize(
    ("confidence", "correct", "bins", "gap", "rows"),
    [
        # (0, 0.5]: 0.2 wrong, 0.5 right: mean 0.35, accuracy 0.5, gap 0.15.
        # (0.5, 1]: 0.7 right, 0.9 right, 0.8 wrong: mean 0.8, accuracy 2/3, gap 2/15.
        (
            [0.2, 0.5, 0.7, 0.9, 0.8],
            [0, 1, 1, 1, 0],
            2,
            (2 * 0.15 + 3 * 2 / 15) / 5,
            [[0.35, 0.5, 2], [0.8, 2 / 3, 3]],
        ),
        # 0 and 1 have no bin beyond the outer ones; an upper edge belongs to the bin below it:
        # (0, 0.25], (0.25, 0.5], (0.75, 1].
        (
            [0.0, 1.0, 0.25, 0.26],
            [0, 1, 1, 1],
            4,
            (2 * (0.5 - 0.125) + (1 - 0.26) + 0) / 4,
            [[0.125, 0.5, 2], [0.26, 1, 1], [1.0, 1, 1]],
        ),
    ],
)
def test_calibration_by_hand(
    confidence: list[float], correct: list[int], bins: int, gap: float, rows: list[list[float]]
) -> None:
    found = Calibration(bins)
    for part in (slice(1), slice(1, None)):
        found.update(np.array(confidence[part]), np.array(correct[part], bool))
    assert found.error() == pytest.approx(gap)
    table = found.table()
    assert table[["confidence", "accuracy", "images"]].to_numpy() == pytest.approx(np.array(rows))
    assert table["perfect"].tolist() == table["confidence"].tolist()


def test_the_loss_of_a_wrong_certainty_is_finite() -> None:
    metrics, *_ = evaluate(np.array([[1.0, 0.0]]), np.array([1]), ("a", "b"))
    assert 30 < metrics["loss"] < math.inf
    assert metrics["expected_calibration_error"] == 1
