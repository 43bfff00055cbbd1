"""Doubt: whether an image is unlike those that a model was trained on.

A classifier names one of its classes whatever it is shown. Two numbers tell when that means little.
The largest logit is small where the network recognises nothing (Hendrycks et al., "Scaling
Out-of-Distribution Detection for Real-World Settings", 2022). And an image's distance from the mean
training image, each pixel's in units of its own deviation, is large where there is light in places
that were always dark: noise, photographs, blank and inverted images, of which a network may be
quite sure. Of the validation images, `SHARE` are beyond the limits that are kept with the model.

The distance is a sum of whole numbers, so its order does not matter.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from image_pipeline.modeling.model_card import DoubtLimits

SHARE = 0.01  # of the validation images that are called doubtful, half of them by each number
LEAST_DEVIATION = 10  # of a pixel, of 255: most of MNIST's rims are the same in all images
UNIT = 1 << 20  # of a pixel's weight


@dataclass(frozen=True)
class Typical:
    """What training images look like.

    Attributes:
        mean: of each pixel, uint8 `[C, H, W]`.
        deviation: its standard deviation, uint8 `[C, H, W]`.
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of_images(cls, parts: Iterable[np.ndarray]) -> "Typical":
        """Take the mean and deviation of images that come in parts, uint8 `[n, C, H, W]`."""
        count = 0
        sums: list[np.ndarray] = []  # of the values, and of their squares
        for part in parts:
            pixels = part.astype(np.int64)
            count += len(pixels)
            more = [pixels.sum(axis=0), np.square(pixels).sum(axis=0)]
            sums = [a + b for a, b in zip(sums, more, strict=True)] if sums else more
        first, second = sums
        variance = (count * second - first * first) / count / count
        mean = (2 * first + count) // (2 * count)
        return cls(mean.astype(np.uint8), np.rint(np.sqrt(variance)).astype(np.uint8))

    def distances(self, images: np.ndarray) -> np.ndarray:
        """Return the mean of squared differences in units of variances, float64 `[N]`.

        Args:
            images: uint8 `[N, C, H, W]`.
        """
        squares = (images.astype(np.float64) - self.mean).reshape(len(images), -1)
        squares *= squares
        variances = np.maximum(self.deviation.astype(np.int64), LEAST_DEVIATION) ** 2
        weights = (UNIT // variances).ravel()
        total: np.ndarray = squares @ weights.astype(np.float64)  # whole numbers below 2**53
        return total / (UNIT * len(weights))


def limits_of(largest_logits: np.ndarray, distances: np.ndarray) -> DoubtLimits:
    """Choose the limits by the largest logit and the distance of each validation image."""
    beyond = int(SHARE / 2 * len(distances))
    return DoubtLimits(
        logit=float(np.sort(largest_logits)[beyond]),
        distance=float(np.sort(distances)[len(distances) - 1 - beyond]),
    )


def is_doubtful(
    largest_logits: np.ndarray, distances: np.ndarray, limits: DoubtLimits
) -> np.ndarray:
    """Tell of each image whether it is beyond the limits, bool `[N]`."""
    beyond: np.ndarray = (largest_logits < limits.logit) | (distances > limits.distance)
    return beyond
