"""What the model says of images it is not learning from."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from image_pipeline.model import normalise
from image_pipeline.tensor_files import Description, Split


def predict(
    model: nn.Module, split: Split, description: Description, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits float32 `[B, classes]` and labels int64 `[B]` of a split, batch by batch.

    Args:
        model: set to inference.
        split: images uint8 `[N, C, H, W]`, read batch by batch.
        description: the statistics the model was trained with.
        batch_size: part of what fixes the last bit.
    """
    model.eval()
    batches = zip(split.images.split(batch_size), split.labels.split(batch_size), strict=True)
    for images, labels in batches:
        yield model(torch.from_numpy(normalise(images.numpy(), description))), labels
