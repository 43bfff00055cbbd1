"""A small convolutional network: strided convolutions, then a multilayer perceptron.

Source: Simard, Steinkraus and Platt, "Best Practices for Convolutional Neural Networks Applied to
Visual Document Analysis" (2003): 5x5 kernels at a stride of 2, filters 5 and 50, one hidden layer.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

KERNEL, STRIDE = 5, 2


class Model(nn.Module):
    """Blocks of a 5x5 convolution and ReLU, each of which halves the image, then dense layers.

    Args:
        shape: channels, height and width of an image.
        classes: number of logits.
        filters: number of filters of each block.
        hidden_sizes: units of each hidden dense layer.

    Raises:
        ValueError: the images are too small for the number of blocks.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        filters: Sequence[int] = (16, 32),
        hidden_sizes: Sequence[int] = (120, 84),
    ) -> None:
        super().__init__()
        channels, height, width = shape
        for number, _ in enumerate(filters):
            height, width = ((side - KERNEL) // STRIDE + 1 for side in (height, width))
            if min(height, width) < 1:
                raise ValueError(
                    f"filters: these images are too small for more than {number} blocks"
                )
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, KERNEL, STRIDE)
            for before, after in pairwise([channels, *filters])
        )
        features = ([channels, *filters])[-1] * height * width
        sizes = [features, *hidden_sizes]
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.output = nn.Linear(sizes[-1], classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Map images float32 `[B, C, H, W]` to logits float32 `[B, classes]`."""
        values = images.to(memory_format=torch.channels_last)
        for convolution in self.convolutions:
            # Of one channel, which is in both formats, PyTorch makes the other one.
            values = convolution(values).to(memory_format=torch.channels_last)
            values = functional.relu(values)  # [B, filters, height, width]
        values = values.flatten(1)
        for layer in self.hidden:
            values = functional.relu(layer(values))  # [B, units]
        logits: Tensor = self.output(values)
        return logits
