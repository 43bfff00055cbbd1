"""What the model says of images it is not learning from."""

from collections.abc import Iterator
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from image_pipeline.tensors.tensor_files import DatasetInfo, Split

BATCH_IMAGES = 1000
BATCH_BYTES = 1 << 22  # of a batch's images as float32: the layers' values are many times it


def normalise(
    images: np.ndarray, description: DatasetInfo, out: np.ndarray | None = None
) -> np.ndarray:
    """Bring the training split's pixels to mean 0 and standard deviation 1.

    Args:
        images: uint8 or float32 `[B, C, H, W]`, values 0 to 255.
        description: the statistics.
        out: float32 `[B, C, H, W]` to write to, `images` itself at will; a new array if None.

    Returns:
        float32 `[B, C, H, W]`.
    """
    mean = np.float32(255) * np.array(description.mean, np.float32)[:, None, None]  # [C, 1, 1]
    std = np.float32(255) * np.array(description.std, np.float32)[:, None, None]
    centred: np.ndarray = np.subtract(images, mean, out=out, dtype=np.float32)
    np.divide(centred, std, out=centred)
    return centred


def max_batch_size(shape: tuple[int, int, int], most: int) -> int:
    """Return how many images of a shape are asked about together: `most`, fewer of large ones."""
    return max(1, min(most, BATCH_BYTES // (4 * prod(shape))))


@torch.no_grad()
def forward_batch(model: nn.Module, images: np.ndarray, description: DatasetInfo) -> Tensor:
    """Return what the model says of a batch: logits float32 `[B, classes]`.

    Args:
        model: set to inference.
        images: uint8 `[B, C, H, W]`.
        description: the statistics the model was trained with.
    """
    model.eval()
    logits: Tensor = model(torch.from_numpy(normalise(images, description)))
    return logits


def predict(
    model: nn.Module, split: Split, description: DatasetInfo, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits float32 `[B, classes]` and labels int64 `[B]` of a split, batch by batch.

    Args:
        model: set to inference.
        split: images uint8 `[N, C, H, W]`, read batch by batch.
        description: the statistics the model was trained with.
        batch_size: part of what fixes the last bit; see `max_batch_size` for large images.
    """
    size = max_batch_size(split.shape, batch_size)
    batches = zip(split.images.split(size), split.labels.split(size), strict=True)
    for images, labels in batches:
        yield forward_batch(model, images.numpy(), description), labels
