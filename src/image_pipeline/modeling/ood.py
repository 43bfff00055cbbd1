"""Out-of-distribution (OOD) detection: whether an image is unlike the training images.

A softmax classifier always predicts a known class. Two scores show when that means little:

- the largest logit, which is small where the network recognises nothing (Hendrycks et al., "Scaling
  Out-of-Distribution Detection for Real-World Settings", 2022);
- the distance from the mean training image, each pixel in units of its own standard deviation. It
  is large for noise, photographs, and blank or inverted images, of which a network may be
  confident.

The thresholds are fitted on the validation images, of which `SHARE` are beyond them. The distance
is a sum of integers, so it does not depend on the order of summation.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import nn

from image_pipeline.modeling.inference import BATCH_IMAGES, max_batch_size, predict
from image_pipeline.modeling.model_card import OodThresholds
from image_pipeline.tensors.tensor_files import Split

SHARE = 0.01  # of the validation images are beyond a threshold, half of them beyond each
MIN_DEVIATION = 10  # of a pixel, of 255: most of MNIST's border pixels never change
UNIT = 1 << 20  # fixed-point unit of a pixel's weight


@dataclass(frozen=True)
class TrainingStatistics:
    """Per-pixel statistics of the training images.

    Attributes:
        mean: of each pixel, uint8 `[C, H, W]`.
        deviation: standard deviation of each pixel, uint8 `[C, H, W]`.
    """

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of_images(cls, batches: Iterable[np.ndarray]) -> "TrainingStatistics":
        """Compute the statistics of batches of images, uint8 `[B, C, H, W]`."""
        count = 0
        sums: list[np.ndarray] = []  # of the pixels, and of their squares
        for batch in batches:
            pixels = batch.astype(np.int64)
            count += len(pixels)
            terms = [pixels.sum(axis=0), np.square(pixels).sum(axis=0)]
            sums = [a + b for a, b in zip(sums, terms, strict=True)] if sums else terms
        first, second = sums
        variance = (count * second - first * first) / count / count
        mean = (2 * first + count) // (2 * count)
        return cls(mean.astype(np.uint8), np.rint(np.sqrt(variance)).astype(np.uint8))

    def distances(self, images: np.ndarray) -> np.ndarray:
        """Return the mean squared difference from `mean` in units of variances, float64 `[N]`.

        Args:
            images: uint8 `[N, C, H, W]`.
        """
        squares = (images.astype(np.float64) - self.mean).reshape(len(images), -1)
        squares *= squares
        variances = np.maximum(self.deviation.astype(np.int64), MIN_DEVIATION) ** 2
        weights = (UNIT // variances).ravel()
        total: np.ndarray = squares @ weights.astype(np.float64)  # integers below 2**53
        return total / (UNIT * len(weights))


def fit(
    model: nn.Module, train: Split, validation: Split
) -> tuple[TrainingStatistics, OodThresholds]:
    """Compute the training images' statistics, and fit the thresholds on the validation images."""
    size = max_batch_size(train.shape, BATCH_IMAGES)
    statistics = TrainingStatistics.of_images(part.numpy() for part in train.images.split(size))
    batches = predict(model, validation, train.info, BATCH_IMAGES)
    largest_logits = np.concatenate([logits.amax(1).numpy() for logits, _ in batches])
    distances = [statistics.distances(part.numpy()) for part in validation.images.split(size)]
    return statistics, fit_thresholds(largest_logits, np.concatenate(distances))


def fit_thresholds(largest_logits: np.ndarray, distances: np.ndarray) -> OodThresholds:
    """Fit the thresholds to both scores of the validation images, float `[N]` each."""
    beyond = int(SHARE / 2 * len(distances))
    return OodThresholds(
        logit=float(np.sort(largest_logits)[beyond]),
        distance=float(np.sort(distances)[len(distances) - 1 - beyond]),
    )


def is_out_of_distribution(
    largest_logits: np.ndarray, distances: np.ndarray, thresholds: OodThresholds
) -> np.ndarray:
    """Return whether each image is beyond a threshold, bool `[N]`."""
    beyond: np.ndarray = (largest_logits < thresholds.logit) | (distances > thresholds.distance)
    return beyond
