"""Inference: normalisation, forward passes without gradients, predictions of a split."""

from collections.abc import Iterator
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from image_pipeline.tensors.tensor_files import DatasetInfo, Split

BATCH_IMAGES = 1000
BATCH_BYTES = 1 << 22  # of the images as float32; activations take many times that


def normalise(images: np.ndarray, info: DatasetInfo, out: np.ndarray | None = None) -> np.ndarray:
    """Normalise pixels: per channel, the training split has mean 0 and standard deviation 1.

    Args:
        images: uint8 or float32 `[B, C, H, W]`, values 0 to 255.
        info: mean and standard deviation of each channel.
        out: float32 `[B, C, H, W]` to write to, may be `images`; a new array if None.

    Returns:
        float32 `[B, C, H, W]`.
    """
    mean = np.float32(255) * np.array(info.mean, np.float32)[:, None, None]  # [C, 1, 1]
    std = np.float32(255) * np.array(info.std, np.float32)[:, None, None]
    centred: np.ndarray = np.subtract(images, mean, out=out, dtype=np.float32)
    np.divide(centred, std, out=centred)
    return centred


def max_batch_size(shape: tuple[int, int, int], limit: int) -> int:
    """Return how many images of a shape form a batch: `limit`, or fewer if they are large."""
    return max(1, min(limit, BATCH_BYTES // (4 * prod(shape))))


@torch.no_grad()
def forward_batch(model: nn.Module, images: np.ndarray, info: DatasetInfo) -> Tensor:
    """Return logits float32 `[B, classes]` of a batch.

    Args:
        model: put in evaluation mode.
        images: uint8 `[B, C, H, W]`.
        info: of the data set the model was trained on.
    """
    model.eval()
    logits: Tensor = model(torch.from_numpy(normalise(images, info)))
    return logits


def predict(
    model: nn.Module, split: Split, info: DatasetInfo, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits float32 `[B, classes]` and labels int64 `[B]` of a split, batch by batch.

    Args:
        model: put in evaluation mode.
        split: images uint8 `[N, C, H, W]`, read batch by batch.
        info: of the data set the model was trained on.
        batch_size: affects the last bits of logits; reduced for large images (`max_batch_size`).
    """
    size = max_batch_size(split.shape, batch_size)
    batches = zip(split.images.split(size), split.labels.split(size), strict=True)
    for images, labels in batches:
        yield forward_batch(model, images.numpy(), info), labels
