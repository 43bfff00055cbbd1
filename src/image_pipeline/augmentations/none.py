"""No custom augmentation; a template for one.

Copy this file and set `train.augmentation.custom` in params.yaml to the copy's name (without
`.py`). Its `augment` runs on the training images after the built-in augmentations.
"""

import torch
from torch import Tensor


def augment(images: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """Return augmented images, float32 `[B, C, H, W]` of the same shape, values 0 to 255."""
    return images
