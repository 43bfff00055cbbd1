"""The multilayer perceptron: dense layers with ReLU between them.

Source: the public project Image-Classification-with-MNIST (784-120-84-10, 105,214 parameters).
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn
from torch.nn import functional


class Model(nn.Module):
    """Dense layers on the pixels.

    Args:
        shape: channels, height and width of an image.
        classes: number of logits.
        hidden_sizes: units of each hidden layer; empty for a linear model.
    """

    def __init__(
        self, shape: tuple[int, int, int], classes: int, *, hidden_sizes: Sequence[int] = (120, 84)
    ) -> None:
        super().__init__()
        sizes = [prod(shape), *hidden_sizes]
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.output = nn.Linear(sizes[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images float32 `[B, C, H, W]` to logits float32 `[B, classes]`."""
        values = images.flatten(1)  # [B, C*H*W]
        for layer in self.hidden:
            values = functional.relu(layer(values))  # [B, units]
        logits: Tensor = self.output(values)
        return logits
