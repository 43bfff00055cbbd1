"""How good the model is, measured once on the test split."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import log_loss, precision_recall_fscore_support

CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True)
class Evaluation:
    """Metrics for `metrics/test.json` and the tables behind the plots."""

    metrics: dict[str, Any]
    predictions: pd.DataFrame
    classes: pd.DataFrame
    reliability: pd.DataFrame


def evaluate(
    probabilities: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], bins: int
) -> Evaluation:
    """Judge predicted probabilities against the truth.

    Args:
        probabilities: float64 `[N, classes]`, each row adding up to 1.
        labels: int64 `[N]`.
        class_names: one per class.
        bins: equally wide bins of confidence for the calibration error.
    """
    predicted = probabilities.argmax(axis=1)
    confidence = probabilities.max(axis=1)
    right = predicted == labels
    count, errors = len(labels), int((~right).sum())
    classes = np.arange(len(class_names))
    precision, recall, f1, images = precision_recall_fscore_support(
        labels, predicted, labels=classes, zero_division=0.0
    )
    interval = binomtest(count - errors, count).proportion_ci(CONFIDENCE_LEVEL, method="wilson")
    reliability, calibration_error = calibration(confidence, right, bins)
    by_class = pd.DataFrame(
        {
            "class": class_names,
            "images": images,
            "precision": precision,
            "recall": recall,
            "f1": f1,
        }
    )
    metrics = {
        "accuracy": (count - errors) / count,
        "accuracy_interval_95": {"low": float(interval.low), "high": float(interval.high)},
        "errors": errors,
        "images": count,
        "loss": float(log_loss(labels, probabilities, labels=classes)),
        "macro_f1": float(f1.mean()),
        "expected_calibration_error": calibration_error,
        "classes": {
            row["class"]: {key: float(row[key]) for key in ("precision", "recall", "f1")}
            for _, row in by_class.iterrows()
        },
    }
    names = np.asarray(class_names)
    predictions = pd.DataFrame(
        {"actual": names[labels], "predicted": names[predicted], "confidence": confidence}
    )
    return Evaluation(metrics, predictions, by_class, reliability)


def calibration(confidence: np.ndarray, right: np.ndarray, bins: int) -> tuple[pd.DataFrame, float]:
    """Compare confidence with accuracy, bin by bin.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), equation 3.

    Args:
        confidence: float64 `[N]`, the probability of the predicted class.
        right: bool `[N]`, whether the prediction was right.
        bins: equally wide bins between 0 and 1, each with its upper edge.

    Returns:
        One row per bin that is not empty (its mean confidence, its accuracy, its images), and the
        expected calibration error: the mean gap between the two, weighted by images.
    """
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    images = np.bincount(index, minlength=bins)
    filled = images > 0
    mean_confidence = np.bincount(index, confidence, bins)[filled] / images[filled]
    accuracy = np.bincount(index, right, bins)[filled] / images[filled]
    gap = float((np.abs(accuracy - mean_confidence) * images[filled]).sum() / len(confidence))
    table = pd.DataFrame(
        {
            "confidence": mean_confidence,
            "accuracy": accuracy,
            "perfect": mean_confidence,
            "images": images[filled],
        }
    )
    return table, gap
