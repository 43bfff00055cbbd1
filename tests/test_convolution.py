"""The convolution blocks, held against torch's own."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from image_pipeline import convolution
from image_pipeline.convolution import CHUNK_IMAGES, Block, backward, convolve, forward


def draw(
    count: int, shape: tuple[int, int, int], filters: list[int]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return images, kernels and biases at random, the weights as leaves that want gradients."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, *shape, generator=generator)
    kernels, biases, channels = [], [], shape[0]
    for after in filters:
        kernels.append(torch.randn(after, channels, 5, 5, generator=generator) / 5)
        biases.append(torch.randn(after, generator=generator))
        channels = after
    for weight in (*kernels, *biases):
        weight.requires_grad_(True)
    return images, kernels, biases


def torchs_own(images: Tensor, kernels: list[Tensor], biases: list[Tensor]) -> Tensor:
    """Compute the same with torch's convolutions, in float64."""
    outputs = images.double()
    for kernel, bias in zip(kernels, biases, strict=True):
        outputs = functional.conv2d(outputs, kernel.double(), bias.double(), stride=2).relu()
    return outputs.flatten(1)


def as_blocks(kernels: list[Tensor], biases: list[Tensor]) -> list[Block]:
    pairs = zip(kernels, biases, strict=True)
    return [(kernel.detach().flatten(1).numpy(), bias.detach().numpy()) for kernel, bias in pairs]


CASES = {
    "28x28": (3, (1, 28, 28), [4, 6]),
    "16x16 in colour": (5, (3, 16, 16), [3, 2]),
    "64x64, four blocks": (2, (3, 64, 64), [4, 3, 5, 2]),
    "odd and not square": (4, (2, 17, 30), [3, 4]),
    "one block, one pixel": (2, (1, 5, 6), [7]),
    "one image": (1, (1, 13, 13), [2, 3]),
    "a chunk": (CHUNK_IMAGES, (1, 8, 8), [3]),
    "a chunk and one": (CHUNK_IMAGES + 1, (1, 8, 8), [3]),
    "chunks": (3 * CHUNK_IMAGES - 1, (1, 13, 14), [3, 2]),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_torch(name: str) -> None:
    images, kernels, biases = draw(*CASES[name])
    blocks, expected = as_blocks(kernels, biases), torchs_own(images, kernels, biases)
    features, chunks = forward(blocks, images.numpy())
    assert features.dtype == np.float32
    assert features.shape == expected.shape
    assert torch.allclose(torch.from_numpy(features).double(), expected, rtol=1e-4, atol=1e-4)
    towards = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    found = [(np.full_like(kernel, np.nan), np.full_like(bias, np.nan)) for kernel, bias in blocks]
    backward(blocks, chunks, towards.numpy(), found)
    wanted = torch.autograd.grad(expected, kernels + biases, towards.double())
    for one, other in zip(
        [kernel for kernel, _ in found] + [bias for _, bias in found], wanted, strict=True
    ):
        scale = other.abs().max()
        assert torch.allclose(
            torch.from_numpy(one).reshape(other.shape) / scale, other / scale, atol=1e-5
        )


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    images, kernels, biases = draw(10 * CHUNK_IMAGES + 3, (1, 28, 28), [4, 6])
    blocks = as_blocks(kernels, biases)
    expected, _ = forward(blocks, images.numpy())
    assert np.array_equal(convolve(blocks, images.numpy(), threads), expected)


def test_large_images_are_taken_in_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    images, kernels, biases = draw(7, (1, 28, 28), [4, 6])
    blocks = as_blocks(kernels, biases)
    expected = convolve(blocks, images.numpy(), threads=2)
    sizes = []
    of_a_chunk = convolution._forward

    def counted(blocks: Sequence[Block], part: np.ndarray) -> list[np.ndarray]:
        sizes.append(part.shape[-1])
        return of_a_chunk(blocks, part)

    monkeypatch.setattr(convolution, "_forward", counted)
    # An image has 25 * 12 * 12 = 3600 values of patches in the first block, 4 * 25 * 4 * 4 = 1600
    # in the second.
    for limit, size in ((3600 * 4 - 1, 3), (1, 1)):
        sizes.clear()
        monkeypatch.setattr(convolution, "CHUNK_VALUES", limit)
        assert np.allclose(convolve(blocks, images.numpy(), threads=2), expected, atol=1e-5)
        assert max(sizes) == size
        assert sum(sizes) == 7
