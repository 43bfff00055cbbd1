"""The network, and the file that holds all that is needed to use it."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from image_pipeline import convolution, dense
from image_pipeline.cores import available_cores
from image_pipeline.errors import DataError, one_line
from image_pipeline.files import write_bytes
from image_pipeline.model_card import KERNEL, REMEDY, STRIDE, ModelCard
from image_pipeline.tensor_files import Description, open_tensors


class MultilayerPerceptron(nn.Module):
    """Dense layers with ReLU between them.

    Source: the public project Image-Classification-with-MNIST (784-120-84-10, 105,214 parameters).
    """

    lane_images = 256  # worth a core of their own: with fewer, calls and waiting would cost more
    threads = 1  # that may compute at inference

    def __init__(self, inputs: int, hidden_sizes: tuple[int, ...], classes: int) -> None:
        super().__init__()
        sizes = [inputs, *hidden_sizes]
        self.hidden = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))
        self.output = nn.Linear(sizes[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images float32 `[B, C, H, W]` to logits float32 `[B, classes]`."""
        return torch.from_numpy(dense.forward(self._dense(), self._features(images.numpy()))[-1])

    def learn(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        share: float,
        label_smoothing: float,
        out: Sequence[np.ndarray],
    ) -> tuple[float, int]:
        """Compute the gradients of the images' cross-entropy, on one thread.

        Args:
            images: normalised, float32 `[B, C, H, W]`.
            labels: int64 `[B]`.
            share: what an image's loss is multiplied by.
            label_smoothing: share of each label spread over all classes.
            out: where the gradients go: of the shapes of `parameters()` and in their order.

        Returns:
            The sum of the losses, not multiplied, and how many labels were found.
        """
        features, kept = self._features_to_learn(images)
        layers = self._dense()
        activations = dense.forward(layers, features)
        logits, targets = torch.from_numpy(activations[-1]), torch.from_numpy(labels)
        loss = functional.cross_entropy(
            logits, targets, label_smoothing=label_smoothing, reduction="sum"
        ).item()
        # The gradient of a loss: the classes' probabilities less those that the label promises.
        gradient: np.ndarray = torch.softmax(logits, 1).numpy()  # [B, classes]
        gradient -= np.float32(label_smoothing / gradient.shape[1])
        gradient[np.arange(len(labels)), labels] -= np.float32(1 - label_smoothing)
        gradient *= np.float32(share)
        pairs = list(zip(out[::2], out[1::2], strict=True))  # weights and biases
        wanted = kept is not None
        behind = dense.backward(
            layers, activations, gradient, pairs[: len(layers)], of_inputs=wanted
        )
        if behind is not None:
            self._learn_features(kept, behind, pairs[len(layers) :])
        return loss, int((activations[-1].argmax(1) == labels).sum())

    def _dense(self) -> list[dense.Layer]:
        return [_as_arrays(layer) for layer in (*self.hidden, self.output)]

    def _features(self, images: np.ndarray) -> np.ndarray:
        """Return what the first dense layer takes, float32 `[B, F]`."""
        return images.reshape(len(images), -1)

    def _features_to_learn(self, images: np.ndarray) -> tuple[np.ndarray, Any]:
        """Return the features and what their gradients are computed from; None where none are."""
        return self._features(images), None

    def _learn_features(self, kept: Any, gradient: np.ndarray, out: list[dense.Layer]) -> None:
        """Compute the gradients of what made the features from theirs, float32 `[B, F]`."""


class ConvolutionalNetwork(MultilayerPerceptron):
    """The perceptron on features that convolutions found, instead of on pixels.

    Each block halves the image: 5x5 kernels at a stride of 2 without padding, then ReLU.
    Source: Simard, Steinkraus and Platt, "Best Practices for Convolutional Neural Networks Applied
    to Visual Document Analysis" (2003): channels 5 and 50, one hidden layer of 100.
    """

    lane_images = 128

    def __init__(
        self, channels: tuple[int, ...], features: int, hidden_sizes: tuple[int, ...], classes: int
    ) -> None:
        super().__init__(features, hidden_sizes, classes)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, KERNEL, STRIDE) for before, after in pairwise(channels)
        )

    def _blocks(self) -> list[convolution.Block]:
        return [_as_arrays(block) for block in self.convolutions]

    def _features(self, images: np.ndarray) -> np.ndarray:
        return convolution.convolve(self._blocks(), images, self.threads)

    def _features_to_learn(self, images: np.ndarray) -> tuple[np.ndarray, Any]:
        return convolution.forward(self._blocks(), images)

    def _learn_features(self, kept: Any, gradient: np.ndarray, out: list[dense.Layer]) -> None:
        flat = [(kernels.reshape(len(kernels), -1), biases) for kernels, biases in out]
        convolution.backward(self._blocks(), kept, gradient, flat)


def _as_arrays(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return a layer's weights `[after, before]` and biases `[after]`, in its own memory."""
    weights: np.ndarray = layer.weight.detach().numpy()
    biases: np.ndarray = layer.bias.detach().numpy()
    return weights.reshape(len(weights), -1), biases


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
    """Read a model for inference on all cores.

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
    model.threads = available_cores()
    return model.eval(), card
