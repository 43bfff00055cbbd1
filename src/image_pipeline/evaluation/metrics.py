"""The metrics of a model on a split, computed batch by batch.

A metric is defined here and nowhere else: to add one, accumulate what it needs in
`Evaluation.update` and return it from `Evaluation.compute`. It is then in metrics/test.json, and so
in `dvc metrics`, which sorts by name, in `seeds` and in the model card; no other file has to
change. (`compare` has a table of selected metrics.)
"""

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn.metrics import log_loss, precision_recall_fscore_support

from image_pipeline.evaluation.calibration import calibration_error, confidence_bin

CONFIDENCE_LEVEL = 0.95


class Evaluation:
    """Accumulates predictions and labels; memory does not grow with the number of images.

    Args:
        class_names: one per class.
        bins: number of confidence bins of the calibration error.

    Attributes:
        calibration: of all predictions so far.
    """

    def __init__(self, class_names: tuple[str, ...], bins: int) -> None:
        self._names = np.asarray(class_names)
        self._confusion = np.zeros((len(class_names), len(class_names)), np.int64)
        self.calibration = Calibration(bins)
        self._loss = 0.0

    def update(self, probabilities: np.ndarray, labels: np.ndarray) -> pd.DataFrame:
        """Add a batch.

        Args:
            probabilities: float64 `[B, classes]`, each row summing to 1.
            labels: int64 `[B]`.

        Returns:
            One row per image: actual and predicted class, confidence (the probability of the
            predicted class), and the probability of the actual class.
        """
        classes = len(self._names)
        predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
        pairs = np.bincount(labels * classes + predicted, minlength=classes * classes)
        self._confusion += pairs.reshape(classes, classes)
        self.calibration.update(confidence, predicted == labels)
        self._loss += log_loss(labels, probabilities, labels=np.arange(classes), normalize=False)
        return pd.DataFrame(
            {
                "actual": self._names[labels],
                "predicted": self._names[predicted],
                "confidence": confidence,
                "probability_of_actual": probabilities[np.arange(len(labels)), labels],
            }
        )

    def per_class(self) -> pd.DataFrame:
        """Return number of images, precision, recall and F1 score of each class."""
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

    def compute(self) -> dict[str, Any]:
        """Return the metrics of the whole split: the content of metrics/test.json.

        `dvc metrics` shows every number. It skips lists, so `accuracy_interval_95` is one: it adds
        nothing there, as it is a function of `accuracy` and `images`.
        """
        count, correct = int(self._confusion.sum()), int(self._confusion.trace())
        interval = binomtest(correct, count).proportion_ci(CONFIDENCE_LEVEL, method="wilson")
        return {
            "accuracy": correct / count,
            "accuracy_interval_95": [float(interval.low), float(interval.high)],
            "errors": count - correct,
            "images": count,
            "loss": float(self._loss / count),
            "macro_f1": float(self.per_class()["f1"].mean()),
            "expected_calibration_error": self.calibration.error(),
        }


class Calibration:
    """Confidence (the probability of the predicted class) against accuracy, by confidence bin.

    Args:
        bins: their number.
    """

    def __init__(self, bins: int) -> None:
        self._images = np.zeros(bins, np.int64)
        self._correct = np.zeros(bins, np.int64)
        self._confidence = np.zeros(bins)

    def update(self, confidence: np.ndarray, correct: np.ndarray) -> None:
        """Add confidences float64 `[B]`, and whether each prediction is correct, bool `[B]`."""
        bins = len(self._images)
        index = confidence_bin(confidence, bins)
        self._images += np.bincount(index, minlength=bins)
        self._correct += np.bincount(index[correct], minlength=bins)
        self._confidence += np.bincount(index, confidence, bins)

    def table(self) -> pd.DataFrame:
        """Return mean confidence, accuracy and number of images of each non-empty bin."""
        non_empty = self._images > 0
        images = self._images[non_empty]
        confidence = self._confidence[non_empty] / images
        return pd.DataFrame(
            {
                "confidence": confidence,
                "accuracy": self._correct[non_empty] / images,
                "perfect": confidence,
                "images": images,
            }
        )

    def error(self) -> float:
        """Return the expected calibration error."""
        return float(calibration_error(self._correct - self._confidence, self._images.sum()))
