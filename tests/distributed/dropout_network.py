"""A custom network: a random layer, batch norm's buffers, and a weight without a gradient."""

import torch
from torch import Tensor, nn


class Model(nn.Module):
    """The class that a file in `models/` defines, here without options."""

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(shape[0], 4, 3),
            nn.BatchNorm2d(4),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.LazyLinear(classes),
        )
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, images: Tensor) -> Tensor:
        """Map images float32 `[B, C, H, W]` to logits float32 `[B, classes]`."""
        logits: Tensor = self.layers(images)
        return logits
