"""No change: what a change of one's own looks like.

A copy of this file under another name, `train.augmentation.custom: <name>` in params.yaml, and its
`augment` is applied to the training images after the changes that params.yaml knows.
"""

import torch
from torch import Tensor


def augment(images: Tensor, generator: torch.Generator) -> Tensor:  # noqa: ARG001
    """Return images float32 `[B, C, H, W]`, values 0 to 255, changed by draws of the generator."""
    return images
