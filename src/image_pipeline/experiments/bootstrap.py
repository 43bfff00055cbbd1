"""The paired bootstrap: how far loss, macro F1 and calibration error differ on resampled images.

All three follow from sums over images, so a resample is a weight for each image, and the sums of
many resamples are one matrix product. Source: Efron and Tibshirani, "An Introduction to the
Bootstrap" (1993), chapters 8 (pairs), 13 (percentile interval) and 15 (p values).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

RESAMPLES = 10_000
SEED = 0
LEVEL = 0.05
# What is resampled: images, or, where there are more images or more sums (four for each class) than
# this, blocks of images drawn at random. With n blocks the width of an interval is off by about
# 1 / sqrt(2 n): 0.7% with 10,000 of them, 3% with the 500 that a thousand classes leave.
MAX_UNITS, FEWEST_UNITS, MAX_CELLS = 10_000, 500, 1_500_000
CHUNK = 2_000_000  # weights at a time
ZERO = 1e-8  # sums of float32 in another order differ by less, and no two models so little


@dataclass(frozen=True)
class Judged:
    """What one model says of the test images.

    Attributes:
        predicted: the class, int64 `[N]`.
        confidence: the probability of that class, float64 `[N]`.
        loss: minus the logarithm of the actual class's probability, float64 `[N]`, in nats; None
            where it is not known.
    """

    predicted: np.ndarray
    confidence: np.ndarray
    loss: np.ndarray | None


@dataclass(frozen=True)
class Estimate:
    """A metric of both models, and its difference, of which the second model's is the minuend.

    Attributes:
        first, second: the metric.
        interval: 95%, of the difference.
        p: two-sided.
    """

    first: float
    second: float
    interval: tuple[float, float]
    p: float


def bootstrap(
    actual: np.ndarray, first: Judged, second: Judged, classes: int, bins: int
) -> dict[str, Estimate]:
    """Estimate the differences of macro F1, calibration error and, where both have it, loss.

    Args:
        actual: the images' classes, int64 `[N]`.
        first: one model.
        second: the other; differences are its metrics minus those of the first.
        classes: how many there are; those without an image or a prediction have an F1 score of 0.
        bins: equally wide bins of confidence.
    """
    rng = np.random.default_rng(SEED)
    models = (first, second)
    # Only their difference is resampled: as the second model's loss, the first one's being 0.
    losses = [model.loss for model in models if model.loss is not None]
    width = 4 * classes + 2 * bins + len(losses) // 2 + 1
    units = min(len(actual), MAX_UNITS, max(FEWEST_UNITS, MAX_CELLS // width))
    unit = np.arange(len(actual))
    if units < len(actual):
        unit = rng.permutation(len(actual)) % units

    def sums(column: np.ndarray, count: int, values: np.ndarray | None = None) -> np.ndarray:
        flat: np.ndarray = np.bincount(unit * count + column, values, units * count)
        return flat.reshape(units, count)

    # Each [units, classes] or [units, bins], for the first model, then the second; or [units, 1].
    right = [actual == model.predicted for model in models]
    of_class = sums(actual, classes)
    parts = [sums(actual, classes, each) for each in right]
    parts += [of_class + sums(model.predicted, classes) for model in models]
    for model, each in zip(models, right, strict=True):
        parts.append(sums(bin_of(model.confidence, bins), bins, each - model.confidence))
    nowhere = np.zeros(len(actual), np.int64)
    if len(losses) == 2:
        parts.append(sums(nowhere, 1, losses[1] - losses[0]))
    parts.append(sums(nowhere, 1))
    splits = np.cumsum([part.shape[1] for part in parts])[:-1]

    def metrics(totals: np.ndarray) -> np.ndarray:
        """Return from sums `[R, width]` the metrics `[metrics, models, R]`; see `losses`."""
        *sides, images = np.split(totals, splits, axis=1)
        found = [
            [macro_f1(hits, counts) for hits, counts in zip(sides[:2], sides[2:4], strict=True)],
            [np.abs(gaps).sum(axis=1) / images[:, 0] for gaps in sides[4:6]],
        ]
        found += [[0 * images[:, 0], loss[:, 0] / images[:, 0]] for loss in sides[6:]]
        return np.asarray(found)

    table = np.hstack(parts).astype(np.float64)
    observed = metrics(table.sum(axis=0, keepdims=True))[..., 0]
    if len(losses) == 2:
        observed[-1] = [loss.mean() for loss in losses]
    # A second thread saves little, and where other programs compute, the two wait for each other.
    with threadpool_limits(1, "blas"):
        resampled = [metrics(part) for part in _resampled_sums(table, rng)]
    differences = np.concatenate([part[:, 1] - part[:, 0] for part in resampled], axis=1)
    names = ["macro_f1", "expected_calibration_error", "loss"][: len(observed)]
    return {
        name: Estimate(float(a), float(b), _interval(difference), _p_value(difference))
        for name, (a, b), difference in zip(names, observed, differences, strict=True)
    }


def bin_of(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Return each confidence's bin, int64 `[N]`; a bin has its upper edge, as in the metrics."""
    index: np.ndarray = np.ceil(confidence * bins).astype(np.int64) - 1
    return index.clip(0, bins - 1)


def macro_f1(hits: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return the mean F1 score over classes, float64 `[R]`.

    Args:
        hits: of each class, images that are rightly taken for it, `[R, classes]`.
        counts: images that are of the class, and those that are taken for it, added up, alike.
    """
    return np.asarray((2 * hits / np.maximum(counts, 1)).mean(axis=1))


def _resampled_sums(table: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the sums `[R, width]` of resamples of `table` `[units, width]`, some at a time."""
    units, width = table.shape
    table = table.astype(np.float32)  # it takes half the time, and counts stay exact
    step = max(1, CHUNK // max(units, width))
    for start in range(0, RESAMPLES, step):
        draws = rng.integers(0, units, (min(step, RESAMPLES - start), units), dtype=np.int32)
        weights = np.empty(draws.shape, np.float32)
        for weight, draw in zip(weights, draws, strict=True):
            weight[:] = np.bincount(draw, minlength=units)
        yield (weights @ table).astype(np.float64)


def _interval(differences: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(differences, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def _p_value(differences: np.ndarray) -> float:
    below, above = (differences <= ZERO).sum(), (differences >= -ZERO).sum()
    return min(1.0, 2 * (int(min(below, above)) + 1) / (len(differences) + 1))
