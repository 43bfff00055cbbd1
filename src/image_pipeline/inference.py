"""What the model says of images it is not learning from."""

import numpy as np
import torch
from torch import Tensor, nn

from image_pipeline.model import normalise
from image_pipeline.tensor_files import Description, Split


@torch.no_grad()
def predict_logits(
    model: nn.Module, split: Split, description: Description, batch_size: int
) -> Tensor:
    """Return logits float32 `[N, classes]` for a split, in batches of a fixed size.

    Args:
        model: set to inference.
        split: images uint8 `[N, C, H, W]`, read batch by batch.
        description: the statistics the model was trained with.
        batch_size: part of what fixes the last bit.
    """
    model.eval()
    return torch.cat(
        [model(normalise(images, description)) for images in split.images.split(batch_size)]
    )


def predict_probabilities(
    model: nn.Module, split: Split, description: Description, batch_size: int
) -> np.ndarray:
    """Return probabilities float64 `[N, classes]` for a split."""
    logits = predict_logits(model, split, description, batch_size)
    return torch.softmax(logits.double(), dim=1).numpy()
