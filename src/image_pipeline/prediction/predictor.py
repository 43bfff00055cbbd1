"""A trained model, ready to be asked; `numerics.pin("portable")` comes before this import."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from image_pipeline.common import paths
from image_pipeline.modeling import ood
from image_pipeline.modeling.inference import BATCH_IMAGES, forward_batch, max_batch_size
from image_pipeline.modeling.model_file import read_model, read_training_statistics
from image_pipeline.prediction.preparation import Preparation, Prepare


@dataclass(frozen=True)
class Predictions:
    """What a model says of N images.

    Attributes:
        probabilities: float64 `[N, classes]`.
        doubtful: bool `[N]`, whether an image is unlike those that the model was trained on.
    """

    probabilities: np.ndarray
    doubtful: np.ndarray


class Predictor:
    """A model file, read.

    Args:
        path: of the file that `train` wrote.

    Attributes:
        path: as above.
        card: what the file says of the model.
        model: the network.

    Raises:
        DataError: there is no such file, or it is not what it should be.
    """

    def __init__(self, path: Path = paths.MODEL) -> None:
        self.path = path
        self.model, self.card = read_model(path)
        self._statistics = read_training_statistics(path) if self.card.ood else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, in the order of the probabilities."""
        return self.card.data.class_names

    @property
    def max_batch_size(self) -> int:
        """How many images make a batch: another number could change the last bit."""
        return max_batch_size(self.card.input_shape, BATCH_IMAGES)

    def preparation(self, how: Prepare = "auto", *, deskew: bool = False) -> Preparation:
        """Return what makes images for this model of image files; see `Preparation.of_model`."""
        return Preparation.of_model(self.card, how, deskew=deskew)

    def predict(self, images: np.ndarray) -> Predictions:
        """Ask about prepared images uint8 `[N, C, H, W]`, in batches."""
        probabilities = np.empty((len(images), len(self.class_names)))
        doubtful = np.zeros(len(images), bool)
        for start in range(0, len(images), self.max_batch_size):
            part = slice(start, start + self.max_batch_size)
            logits = forward_batch(self.model, images[part], self.card.data)
            probabilities[part] = torch.softmax(logits.double(), dim=1).numpy()
            if self.card.ood and self._statistics:
                distances = self._statistics.distances(images[part])
                largest = logits.amax(1).double().numpy()
                doubtful[part] = ood.is_out_of_distribution(largest, distances, self.card.ood)
        return Predictions(probabilities, doubtful)


# Processes that are forked after a call have what it read.
open_predictor = cache(Predictor)
