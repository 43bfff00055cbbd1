"""The paired bootstrap: differences in loss, macro F1 and calibration error on resampled images.

All three metrics are functions of sums over images, so a resample is one weight per image, and the
sums of many resamples are one matrix product. Source: Efron and Tibshirani, "An Introduction to the
Bootstrap" (1993), chapters 8 (pairs), 13 (percentile interval) and 15 (p values).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from image_pipeline.evaluation.calibration import calibration_error, confidence_bin
from image_pipeline.experiments.significance import LEVEL, Metric

RESAMPLES = 10_000
SEED = 0
# The resampled units are images, or, with more images or more sums (four per class) than this,
# random blocks of images. With n blocks the width of an interval is off by about 1 / sqrt(2 n):
# 0.7% with 10,000 of them, 3% with the 500 that a thousand classes leave.
MAX_UNITS, MIN_UNITS, MAX_CELLS = 10_000, 500, 1_500_000
CHUNK = 2_000_000  # weights in memory at once
# float32 sums in another order differ by less than this; two different models differ by more.
TOLERANCE = 1e-8


@dataclass(frozen=True)
class ModelPredictions:
    """One model's predictions on the test images.

    Attributes:
        predicted: the class, int64 `[N]`.
        confidence: the probability of that class, float64 `[N]`.
        loss: cross-entropy, float64 `[N]`, in nats; None if unknown.
    """

    predicted: np.ndarray
    confidence: np.ndarray
    loss: np.ndarray | None


def bootstrap(
    actual: np.ndarray, a: ModelPredictions, b: ModelPredictions, classes: int, bins: int
) -> dict[str, Metric]:
    """Estimate the differences in macro F1, calibration error and, if both models have it, loss.

    Args:
        actual: the true classes, int64 `[N]`.
        a: the model whose metrics are subtracted.
        b: the other model.
        classes: their number; a class without images and predictions has an F1 score of 0.
        bins: the number of equally wide confidence bins.
    """
    rng = np.random.default_rng(SEED)
    models = (a, b)
    losses = [model.loss for model in models if model.loss is not None]
    width = 4 * classes + 2 * bins + len(losses) // 2 + 1
    units = min(len(actual), MAX_UNITS, max(MIN_UNITS, MAX_CELLS // width))
    unit = np.arange(len(actual))
    if units < len(actual):
        unit = rng.permutation(len(actual)) % units

    def sums(column: np.ndarray, count: int, values: np.ndarray | None = None) -> np.ndarray:
        flat: np.ndarray = np.bincount(unit * count + column, values, units * count)
        return flat.reshape(units, count)

    # Each [units, classes] or [units, bins], for model A, then B; or [units, 1].
    correct = [actual == model.predicted for model in models]
    support = sums(actual, classes)
    parts = [sums(actual, classes, each) for each in correct]
    parts += [support + sums(model.predicted, classes) for model in models]
    for model, each in zip(models, correct, strict=True):
        bin_ = confidence_bin(model.confidence, bins)
        parts.append(sums(bin_, bins, each - model.confidence))
    zeros = np.zeros(len(actual), np.int64)
    if len(losses) == 2:  # only the difference is resampled
        parts.append(sums(zeros, 1, losses[1] - losses[0]))
    parts.append(sums(zeros, 1))
    splits = np.cumsum([part.shape[1] for part in parts])[:-1]

    def metrics(totals: np.ndarray) -> np.ndarray:
        """Map sums `[R, width]` to `[metrics, models, R]`; model A's loss counts as 0.

        F1 is twice the true positives over the images of a class plus the predictions of it.
        """
        *sides, images = np.split(totals, splits, axis=1)
        found = [
            [
                (2 * hits / np.maximum(counts, 1)).mean(axis=1)
                for hits, counts in zip(sides[:2], sides[2:4], strict=True)
            ],
            [calibration_error(gaps, images[:, 0]) for gaps in sides[4:6]],
        ]
        found += [[0 * images[:, 0], loss[:, 0] / images[:, 0]] for loss in sides[6:]]
        return np.asarray(found)

    table = np.hstack(parts).astype(np.float64)
    observed = metrics(table.sum(axis=0, keepdims=True))[..., 0]
    if len(losses) == 2:
        observed[-1] = [loss.mean() for loss in losses]
    # A second BLAS thread saves little, and on a busy machine the two wait for each other.
    with threadpool_limits(1, "blas"):
        resampled = [metrics(part) for part in _resampled_sums(table, rng)]
    differences = np.concatenate([part[:, 1] - part[:, 0] for part in resampled], axis=1)
    edges = np.quantile(differences, [LEVEL / 2, 1 - LEVEL / 2], axis=1).tolist()
    names = ["macro_f1", "expected_calibration_error", "loss"][: len(observed)]
    return {
        name: Metric(float(of_a), float(of_b), (low, high), _p_value(difference))
        for name, (of_a, of_b), difference, low, high in zip(
            names, observed, differences, *edges, strict=True
        )
    }


def _resampled_sums(table: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the sums `[R, width]` of resamples of `table` `[units, width]`, in chunks."""
    units, width = table.shape
    table = table.astype(np.float32)  # half the time, and counts stay exact
    step = max(1, CHUNK // max(units, width))
    for start in range(0, RESAMPLES, step):
        draws = rng.integers(0, units, (min(step, RESAMPLES - start), units), dtype=np.int32)
        weights = np.empty(draws.shape, np.float32)
        for weight, draw in zip(weights, draws, strict=True):
            weight[:] = np.bincount(draw, minlength=units)
        yield (weights @ table).astype(np.float64)


def _p_value(differences: np.ndarray) -> float:
    below, above = (differences <= TOLERANCE).sum(), (differences >= -TOLERANCE).sum()
    return min(1.0, 2 * (int(min(below, above)) + 1) / (len(differences) + 1))
