"""Convolution blocks as matrix products, on chunks of a batch that all cores share.

A convolution is a matrix product once each patch of the images is a column ("im2col": Chellapilla,
Puri and Simard, "High Performance Convolutional Neural Networks for Document Processing", 2006). So
it takes the product that `numerics.pin` fixes, which torch's own convolutions would not.

A batch is cut into chunks of a size that the shapes alone decide. Each is computed by one thread,
and the gradients are added up in the order of the chunks: the result depends neither on the number
of threads nor on who is faster. Within a chunk the images are the innermost axis, `[C, H, W, B]`:
whatever is copied or added is then contiguous, strides and all, and no result needs transposing.

Patches are copied anew in the backward pass, into the same space: they are 25 times as large as the
images, and what stays in the cache is had sooner than what was put aside.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from torch import Tensor

from image_pipeline.model_card import KERNEL, STRIDE, block_sizes

CHUNK_IMAGES = 128  # images computed at once: enough for long copies, few enough for the cache
CHUNK_VALUES = 1 << 22  # at most so many values of patches at once, where images are large

Block = tuple[np.ndarray, np.ndarray]  # kernels [filters, C*KERNEL*KERNEL] and biases [filters]

_own = threading.local()  # each thread's space for patches


def convolve(images: Tensor, kernels: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Send images through blocks of a 5x5 convolution with stride 2 and ReLU.

    Args:
        images: float32 `[B, C, H, W]`; no gradient of theirs is computed.
        kernels: of each block, float32 `[filters, C, 5, 5]`.
        biases: of each block, float32 `[filters]`.

    Returns:
        Features float32 `[B, filters * height * width]` of the last block, in the order of
        `torch.nn.functional.conv2d`.
    """
    if torch.is_grad_enabled():
        features: Tensor = _Convolve.apply(images, *kernels, *biases)
        return features
    blocks = _as_blocks(kernels, biases)
    return torch.from_numpy(_features(images.numpy(), blocks, lambda *_: None))


class _Convolve(torch.autograd.Function):
    """Forward and backward pass of `convolve`; what a pass keeps are the blocks' activations."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, *weights: Tensor) -> Tensor:
        depth = len(weights) // 2
        ctx.blocks = _as_blocks(weights[:depth], weights[depth:])
        ctx.shapes = [weight.shape for weight in weights]
        ctx.kept = {}
        return torch.from_numpy(_features(images.numpy(), ctx.blocks, ctx.kept.__setitem__))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient = gradients[0].numpy()  # [B, features]

        def work(start: int) -> list[np.ndarray]:
            activations = ctx.kept[start]
            last = activations[-1]
            part = np.ascontiguousarray(gradient[start : start + last.shape[-1]].T)
            return _backward(ctx.blocks, activations, part.reshape(last.shape))

        parts = list(_threads().map(work, list(ctx.kept)))
        sums = parts[0]
        for part in parts[1:]:
            for total, term in zip(sums, part, strict=True):
                total += term
        shaped = zip(sums, ctx.shapes, strict=True)
        return None, *(torch.from_numpy(total).reshape(shape) for total, shape in shaped)


def _as_blocks(kernels: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Block]:
    pairs = zip(kernels, biases, strict=True)
    return [(kernel.detach().flatten(1).numpy(), bias.detach().numpy()) for kernel, bias in pairs]


def _features(
    images: np.ndarray, blocks: list[Block], keep: Callable[[int, list[np.ndarray]], None]
) -> np.ndarray:
    """Compute the features `[B, F]`; hand each chunk's start and activations to `keep`."""
    count, channels, height, width = images.shape
    filters = [len(bias) for _, bias in blocks]
    sizes = block_sizes((channels, height, width), filters)
    patches = [c * KERNEL * KERNEL * h * w for (c, _, _), (_, h, w) in pairwise(sizes)]
    size = max(1, min(CHUNK_IMAGES, CHUNK_VALUES // max(patches)))
    out = np.empty((count, int(np.prod(sizes[-1]))), np.float32)

    def work(start: int) -> list[np.ndarray]:
        part = slice(start, start + size)
        activations = _forward(blocks, np.ascontiguousarray(images[part].transpose(1, 2, 3, 0)))
        out[part] = activations[-1].reshape(out.shape[1], -1).T
        return activations

    starts = range(0, count, size)
    for start, activations in zip(starts, _threads().map(work, starts), strict=True):
        keep(start, activations)
    return out


def _forward(blocks: list[Block], images: np.ndarray) -> list[np.ndarray]:
    """Return the images `[C, H, W, B]` of a chunk and the activations of each block after them."""
    activations = [images]
    for kernel, bias in blocks:
        patches, (height, width) = _patches(activations[-1])
        outputs = np.matmul(kernel, patches)  # [filters, height*width*B]
        outputs += bias[:, None]
        torch.relu_(torch.from_numpy(outputs))
        activations.append(outputs.reshape(len(bias), height, width, -1))
    return activations


def _backward(
    blocks: list[Block], activations: list[np.ndarray], gradient: np.ndarray
) -> list[np.ndarray]:
    """Return the gradients of all kernels, then of all biases, from that of the last block."""
    of_kernels, of_biases = [], []
    for depth in reversed(range(len(blocks))):
        kernel, bias = blocks[depth]
        inputs, outputs = activations[depth], activations[depth + 1]
        masked = torch.ops.aten.threshold_backward(
            torch.from_numpy(gradient), torch.from_numpy(outputs), 0
        )
        flat = masked.numpy().reshape(len(bias), -1)
        patches, size = _patches(inputs)
        of_kernels.append(flat @ patches.T)
        of_biases.append(flat @ np.ones(flat.shape[1], np.float32))
        if depth:
            np.matmul(kernel.T, flat, out=patches)  # their gradient, in their place
            gradient = _add_patches(patches, inputs.shape, size)
    return of_kernels[::-1] + of_biases[::-1]


def _patches(inputs: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Copy every patch of `[C, H, W, B]` to this thread's space.

    Returns:
        `[C*5*5, height*width*B]`, valid until the next call, and the height and width.
    """
    channels, *sides, count = inputs.shape
    _, height, width = block_sizes((channels, sides[0], sides[1]), [1])[1]
    shape = (channels, KERNEL, KERNEL, height, width, count)
    of_channel, of_row, of_column, of_image = inputs.strides
    strides = (of_channel, of_row, of_column, STRIDE * of_row, STRIDE * of_column, of_image)
    space = _space(int(np.prod(shape))).reshape(shape)
    np.copyto(space, as_strided(inputs, shape, strides, writeable=False))
    return space.reshape(channels * KERNEL * KERNEL, -1), (height, width)


def _add_patches(patches: np.ndarray, shape: tuple[int, ...], size: tuple[int, int]) -> np.ndarray:
    """Add up `[C*5*5, height*width*B]` where the patches came from, as `shape` `[C, H, W, B]`."""
    channels, _, _, count = shape
    height, width = size
    parts = patches.reshape(channels, KERNEL, KERNEL, height, width, count)
    total = np.zeros(shape, np.float32)
    for row in range(KERNEL):
        for column in range(KERNEL):
            rows = slice(row, row + STRIDE * (height - 1) + 1, STRIDE)
            columns = slice(column, column + STRIDE * (width - 1) + 1, STRIDE)
            target = total[:, rows, columns]
            np.add(target, parts[:, row, column], out=target)
    return total


def _space(values: int) -> np.ndarray:
    """Return this thread's float32 `[values]`: fresh memory for every product would cost more."""
    space: np.ndarray = getattr(_own, "space", np.empty(0, np.float32))
    if len(space) < values:
        _own.space = space = np.empty(values, np.float32)
    return space[:values]


@cache
def _threads() -> ThreadPoolExecutor:
    """Return one thread for each core this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return ThreadPoolExecutor(cores, thread_name_prefix="convolve")
