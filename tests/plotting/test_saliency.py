"""Saliency maps, against values worked out by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from image_pipeline.plotting.saliency import saliency_map
from image_pipeline.tensors.tensor_files import DatasetInfo

# Normalised, a pixel of 51 is 0.2.
GREY = DatasetInfo("toy", ("cat", "dog"), (0.0,), (1.0,))
COLOURS = DatasetInfo("toy", ("cat", "dog"), (0.0,) * 3, (1.0,) * 3)
IMAGE = np.array([[[51, 102], [153, 204]]], np.uint8)


class Dense(nn.Module):
    """The logit of a cat is pixel 0 minus pixel 1; of a dog, twice pixel 2 plus pixel 3."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Linear(4, 2, bias=False)
        self.output.weight.data = torch.tensor([[1.0, -1, 0, 0], [0, 0, 2, 1]])

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.output(images.flatten(1))
        return logits


def test_without_a_spatial_layer_it_is_gradient_times_input() -> None:
    cat, layer = saliency_map(Dense(), IMAGE, 0, GREY)
    assert layer is None
    assert cat.dtype == np.float32
    assert cat.tolist() == [[1, 0], [0, 0]]  # 0.2 and -0.4, of which only what speaks for it
    dog, _ = saliency_map(Dense(), IMAGE, 1, GREY)
    assert dog == pytest.approx(np.array([[0, 0], [1, 2 / 3]]))  # 2 * 0.6 and 0.8


class Convolutional(nn.Module):
    """Two channels, the image and its negative, at half the size; what follows is one pixel."""

    def __init__(self, *, mirror: bool = False) -> None:
        super().__init__()
        self.mirror = mirror
        self.reduce = nn.AvgPool2d(2)
        self.signs = nn.Conv2d(1, 2, 1, bias=False)
        self.signs.weight.data = torch.tensor([1.0, -1]).reshape(2, 1, 1, 1)
        self.rectify = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.output = nn.Linear(2, 2, bias=False)
        self.output.weight.data = torch.tensor([[3.0, 0], [0, 5]])

    def logits(self, images: Tensor) -> Tensor:
        values = self.rectify(self.signs(self.reduce(images)))
        logits: Tensor = self.output(self.pool(values).flatten(1))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        logits = self.logits(images)
        return logits + self.logits(images.flip(3)) if self.mirror else logits


@pytest.mark.parametrize("mirror", [False, True])
def test_the_last_spatial_layer_is_explained_and_enlarged(mirror: bool) -> None:
    """A bright corner speaks for a cat; nothing is negative, so nothing speaks for a dog."""
    image = np.zeros((1, 4, 4), np.uint8)
    image[:, :2, 2:] = 200
    model = Convolutional(mirror=mirror)
    cat, layer = saliency_map(model, image, 0, GREY)
    assert layer == "rectify"
    corner = torch.tensor([[[[0.0, 1], [0, 0]]]])
    expected = functional.interpolate(corner, (4, 4), mode="bilinear")[0, 0]
    assert cat == pytest.approx(expected.numpy() / float(expected.max()))
    assert cat[0, 3] == 1 > cat[0, 0] == 0  # in the image as it is, not in its mirror image
    dog, _ = saliency_map(model, image, 1, GREY)
    assert not dog.any()


def test_the_channels_of_an_image_add_up() -> None:
    class Weighted(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            factors = torch.tensor([1.0, 2, -1])[:, None]
            images.add_(0)  # in place
            return (images.flatten(2) * factors).sum(dim=(1, 2))[:, None] * torch.tensor([1.0, -1])

    image = np.array([[[51, 0]], [[51, 0]], [[51, 204]]], np.uint8)
    assert saliency_map(Weighted(), image, 0, COLOURS)[0].tolist() == [[1, 0]]  # 0.4 and -0.8
    assert saliency_map(Weighted(), image, 1, COLOURS)[0].tolist() == [[0, 1]]


def test_a_network_without_gradients_has_an_empty_map() -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.detach().flatten(1)[:, :2]

    heat, layer = saliency_map(Constant(), IMAGE, 0, GREY)
    assert layer is None
    assert heat.tolist() == [[0, 0], [0, 0]]
