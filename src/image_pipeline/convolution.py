"""Convolution blocks as matrix products, forward and backward.

A convolution is a matrix product once each patch of the images is a column ("im2col": Chellapilla,
Puri and Simard, "High Performance Convolutional Neural Networks for Document Processing", 2006). So
it takes the product that `numerics.pin` fixes, which torch's own convolutions would not.

Images are computed in chunks of a size that the shapes alone decide, each by one thread. Within a
chunk the images are the innermost axis, `[C, H, W, B]`: whatever is copied or added is then
contiguous, strides and all, and no result needs transposing.

Patches are copied anew in the backward pass, into the same space: they are 25 times as large as the
images, and what stays in the cache is had sooner than what was put aside.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided

from image_pipeline.dense import behind_relu
from image_pipeline.model_card import KERNEL, STRIDE, block_sizes

CHUNK_IMAGES = 128  # images computed at once: enough for long copies, few enough for the cache
CHUNK_VALUES = 1 << 22  # at most so many values of patches at once, where images are large

Block = tuple[np.ndarray, np.ndarray]  # kernels [filters, C*KERNEL*KERNEL] and biases [filters]
Chunks = list[list[np.ndarray]]  # of each chunk, its images and each block's activations

_own = threading.local()  # each thread's space for patches


def convolve(blocks: Sequence[Block], images: np.ndarray, threads: int) -> np.ndarray:
    """Send images through blocks of a 5x5 convolution with stride 2 and ReLU.

    Args:
        blocks: float32.
        images: float32 `[B, C, H, W]`.
        threads: how many compute; the result is the same. A forked process can only have one.

    Returns:
        Features float32 `[B, filters * height * width]` of the last block, in the order of
        `torch.nn.functional.conv2d`.
    """
    in_order = map if threads == 1 else _pool(threads).map
    return _features(blocks, images, in_order, lambda *_: None)


def forward(blocks: Sequence[Block], images: np.ndarray) -> tuple[np.ndarray, Chunks]:
    """Compute the same on one thread, and keep what `backward` needs."""
    chunks: Chunks = []
    return _features(blocks, images, map, chunks.append), chunks


def backward(
    blocks: Sequence[Block], chunks: Chunks, gradient: np.ndarray, out: Sequence[Block]
) -> None:
    """Compute the gradients of kernels and biases from those of the features.

    Args:
        blocks: float32.
        chunks: as `forward` returned them.
        gradient: float32 `[B, F]`.
        out: where the gradients go, of the shapes of `blocks`.
    """
    start = 0
    for activations in chunks:
        last = activations[-1]
        part = np.ascontiguousarray(gradient[start : start + last.shape[-1]].T)
        found = _backward(blocks, activations, part.reshape(last.shape))
        for totals, terms in zip(out, found, strict=True):
            for total, term in zip(totals, terms, strict=True):
                if start:
                    total += term
                else:
                    total[...] = term
        start += last.shape[-1]


def _features(
    blocks: Sequence[Block],
    images: np.ndarray,
    in_order: Callable[..., Iterator[list[np.ndarray]]],
    keep: Callable[[list[np.ndarray]], None],
) -> np.ndarray:
    """Compute the features `[B, F]`, chunk by chunk as `in_order` maps them.

    Hands the activations of each chunk to `keep`.
    """
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

    for activations in in_order(work, range(0, count, size)):
        keep(activations)
    return out


def _forward(blocks: Sequence[Block], images: np.ndarray) -> list[np.ndarray]:
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
    blocks: Sequence[Block], activations: list[np.ndarray], gradient: np.ndarray
) -> list[Block]:
    """Return the gradients of each block's kernels and biases from that of the last activations."""
    found: list[Block] = []
    for depth in reversed(range(len(blocks))):
        kernel, bias = blocks[depth]
        inputs, outputs = activations[depth], activations[depth + 1]
        flat = behind_relu(gradient, outputs).reshape(len(bias), -1)
        patches, size = _patches(inputs)
        found.append((flat @ patches.T, flat @ np.ones(flat.shape[1], np.float32)))
        if depth:
            np.matmul(kernel.T, flat, out=patches)  # their gradient, in their place
            gradient = _add_patches(patches, inputs.shape, size)
    return found[::-1]


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
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return threads that stay, with the space for patches that each of them has."""
    return ThreadPoolExecutor(threads, thread_name_prefix="convolve")
