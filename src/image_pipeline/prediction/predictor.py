"""A trained model, loaded for inference.

Call `numerics.pin("portable")` before this module is imported: it imports torch.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from image_pipeline.common import paths
from image_pipeline.modeling import ood
from image_pipeline.modeling.inference import BATCH_IMAGES, forward_batch, max_batch_size
from image_pipeline.modeling.model_file import read_model, read_training_statistics


@dataclass(frozen=True)
class Predictions:
    """Predictions for N images.

    Attributes:
        probabilities: float64 `[N, classes]`, in the order of the card's class names.
        doubtful: bool `[N]`, whether an image is out-of-distribution, that is, unlike the training
            images; see `image_pipeline.modeling.ood`.
    """

    probabilities: np.ndarray
    doubtful: np.ndarray


class Predictor:
    """A model read from a file.

    Args:
        path: model file, written by the stage `train`.

    Attributes:
        model: the network, in evaluation mode.
        card: the metadata of the model file.

    Raises:
        DataError: the file is missing or invalid.
    """

    def __init__(self, path: Path = paths.MODEL) -> None:
        self.model, self.card = read_model(path)
        self._statistics = read_training_statistics(path) if self.card.ood else None

    @property
    def max_batch_size(self) -> int:
        """Images per batch; another number could change the last bit of a probability."""
        return max_batch_size(self.card.input_shape, BATCH_IMAGES)

    def predict(self, images: np.ndarray) -> Predictions:
        """Predict preprocessed images, uint8 `[N, C, H, W]`, in batches."""
        probabilities = np.empty((len(images), len(self.card.data.class_names)))
        doubtful = np.zeros(len(images), bool)
        for start in range(0, len(images), self.max_batch_size):
            batch = slice(start, start + self.max_batch_size)
            logits = forward_batch(self.model, images[batch], self.card.data)
            probabilities[batch] = torch.softmax(logits.double(), dim=1).numpy()
            if self.card.ood and self._statistics:
                distances = self._statistics.distances(images[batch])
                largest = logits.amax(1).double().numpy()
                doubtful[batch] = ood.is_out_of_distribution(largest, distances, self.card.ood)
        return Predictions(probabilities, doubtful)


# Cached, so that processes forked after a call share the model.
load_predictor = cache(Predictor)
