"""The network, and the file that holds all that is needed to use it."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from image_pipeline.convolution import convolve
from image_pipeline.errors import DataError, one_line
from image_pipeline.files import write_bytes
from image_pipeline.model_card import KERNEL, REMEDY, STRIDE, ModelCard
from image_pipeline.tensor_files import Description, open_tensors


class MultilayerPerceptron(nn.Module):
    """Dense layers with ReLU between them.

    Source: the public project Image-Classification-with-MNIST (784-120-84-10, 105,214 parameters).
    """

    def __init__(self, inputs: int, hidden_sizes: tuple[int, ...], classes: int) -> None:
        super().__init__()
        sizes = [inputs, *hidden_sizes]
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.output = nn.Linear(sizes[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images float32 `[B, C, H, W]` to logits float32 `[B, classes]`."""
        activations = images.flatten(1)  # [B, C*H*W]
        for layer in self.hidden:
            activations = torch.relu(layer(activations))  # [B, hidden size]
        logits: Tensor = self.output(activations)
        return logits


class ConvolutionalNetwork(MultilayerPerceptron):
    """The perceptron on features that convolutions found, instead of on pixels.

    Each block halves the image: 5x5 kernels at a stride of 2 without padding, then ReLU.
    Source: Simard, Steinkraus and Platt, "Best Practices for Convolutional Neural Networks Applied
    to Visual Document Analysis" (2003): channels 5 and 50, one hidden layer of 100.
    """

    def __init__(
        self, channels: tuple[int, ...], features: int, hidden_sizes: tuple[int, ...], classes: int
    ) -> None:
        super().__init__(features, hidden_sizes, classes)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, KERNEL, STRIDE) for before, after in pairwise(channels)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images float32 `[B, C, H, W]` to logits float32 `[B, classes]`."""
        weights = [list(block.parameters()) for block in self.convolutions]
        kernels, biases = zip(*weights, strict=True)  # [filters, channels, 5, 5] and [filters] each
        return super().forward(convolve(images, kernels, biases))  # [B, features]


def build_model(card: ModelCard) -> MultilayerPerceptron:
    """Make the network of `card`, with fresh weights from torch's global generator."""
    inputs, *hidden_sizes, classes = card.layer_sizes
    if not card.channels:
        return MultilayerPerceptron(inputs, tuple(hidden_sizes), classes)
    channels = (card.input_shape[0], *card.channels)
    return ConvolutionalNetwork(channels, inputs, tuple(hidden_sizes), classes)


def normalise(
    images: np.ndarray, description: Description, out: np.ndarray | None = None
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


def write_model(path: Path, model: nn.Module, card: ModelCard) -> None:
    """Write weights and card as one safetensors file, whole or not at all."""
    write_bytes(path, save(model.state_dict(), card.to_metadata()))


def read_model(path: Path) -> tuple[MultilayerPerceptron, ModelCard]:
    """Read a model for inference.

    Raises:
        DataError: the file is missing or torn, or its weights are not finite or do not fit.
    """
    with open_tensors(path, "pt", "train") as file:
        card = ModelCard.from_metadata(path, file.metadata())
        with torch.device("meta"):  # shapes without memory: the card may promise gigabytes
            promised = build_model(card).state_dict()
        expected = {name: tuple(tensor.shape) for name, tensor in promised.items()}
        names = file.keys()
        found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        if expected != found:
            shown = one_line(found)
            raise DataError(f"{path}: its weights {shown} are not those of its card; {REMEDY}")
        weights = {name: file.get_tensor(name) for name in names}
    for name, tensor in weights.items():
        if tensor.dtype != torch.float32 or not bool(torch.isfinite(tensor).all()):
            raise DataError(f"{path}: `{name}` is not float32 and finite throughout; {REMEDY}")
    model = build_model(card)
    model.load_state_dict(weights)
    return model.eval(), card
