"""How good the model is, measured once on the test split, batch by batch."""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import log_loss, precision_recall_fscore_support

CONFIDENCE_LEVEL = 0.95


class Evaluation:
    """Predicted probabilities held against the truth; memory does not grow with the images.

    Args:
        class_names: one per class.
        bins: equally wide bins of confidence for the calibration error.
    """

    def __init__(self, class_names: tuple[str, ...], bins: int) -> None:
        self._names = np.asarray(class_names)
        self._confusion = np.zeros((len(class_names), len(class_names)), np.int64)
        self._calibration = Calibration(bins)
        self._loss = 0.0

    def add(self, probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
        """Count a batch in.

        Args:
            probabilities: float64 `[B, classes]`, each row adding up to 1.
            labels: int64 `[B]`.

        Returns:
            One row per image: the actual and the predicted class, the probability of the predicted
            one, which is the confidence, and that of the actual one.
        """
        classes = len(self._names)
        predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
        pairs = np.bincount(labels * classes + predicted, minlength=classes * classes)
        self._confusion += pairs.reshape(classes, classes)
        self._calibration.add(confidence, predicted == labels)
        self._loss += log_loss(labels, probabilities, labels=np.arange(classes), normalize=False)
        return pd.DataFrame(
            {
                "actual": self._names[labels],
                "predicted": self._names[predicted],
                "confidence": confidence,
                "probability_of_actual": probabilities[np.arange(len(labels)), labels],
            }
        )

    def by_class(self) -> pd.DataFrame:
        """Return images, precision, recall and F1 score of each class."""
        actual, predicted = np.indices(self._confusion.shape).reshape(2, -1)
        precision, recall, f1, _ = precision_recall_fscore_support(
            actual,
            predicted,
            labels=np.arange(len(self._names)),
            sample_weight=self._confusion.ravel(),
            zero_division=0.0,
        )
        return pd.DataFrame(
            {
                "class": self._names,
                "images": self._confusion.sum(axis=1),
                "precision": precision,
                "recall": recall,
                "f1": f1,
            }
        )

    def reliability(self) -> pd.DataFrame:
        """Return one row per bin of confidence that is not empty; see `Calibration`."""
        return self._calibration.table()

    def metrics(self) -> dict[str, Any]:
        """Return the values of `metrics/test.json`.

        The interval is a list because DVC leaves lists out of its tables: it follows from the rest.
        """
        count, right = int(self._confusion.sum()), int(self._confusion.trace())
        interval = binomtest(right, count).proportion_ci(CONFIDENCE_LEVEL, method="wilson")
        return {
            "accuracy": right / count,
            "accuracy_interval_95": [float(interval.low), float(interval.high)],
            "errors": count - right,
            "images": count,
            "loss": float(self._loss / count),
            "macro_f1": float(self.by_class()["f1"].mean()),
            "expected_calibration_error": self._calibration.error(),
        }


class Calibration:
    """Confidence (the probability of the predicted class) against accuracy, bin by bin.

    Source: Guo et al., "On Calibration of Modern Neural Networks" (2017), equation 3.

    Args:
        bins: equally wide bins between 0 and 1, each with its upper edge.
    """

    def __init__(self, bins: int) -> None:
        self._images = np.zeros(bins, np.int64)
        self._right = np.zeros(bins, np.int64)
        self._confidence = np.zeros(bins)

    def add(self, confidence: np.ndarray, right: np.ndarray) -> None:
        """Count in confidences float64 `[B]`, and whether each prediction was right, bool `[B]`."""
        bins = len(self._images)
        index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
        self._images += np.bincount(index, minlength=bins)
        self._right += np.bincount(index[right], minlength=bins)
        self._confidence += np.bincount(index, confidence, bins)

    def table(self) -> pd.DataFrame:
        """Return mean confidence, accuracy and images of each bin that is not empty."""
        filled = self._images > 0
        images = self._images[filled]
        confidence = self._confidence[filled] / images
        return pd.DataFrame(
            {
                "confidence": confidence,
                "accuracy": self._right[filled] / images,
                "perfect": confidence,
                "images": images,
            }
        )

    def error(self) -> float:
        """Return the expected calibration error: the mean gap, weighted by images."""
        return float(np.abs(self._right - self._confidence).sum() / self._images.sum())
