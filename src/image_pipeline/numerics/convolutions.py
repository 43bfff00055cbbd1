"""Convolutions as matrix products, whose sums are added in one order on every processor.

The patches of the images that the kernels are laid on are the rows of a matrix (im2col:
Chellapilla, Puri and Simard, "High Performance Convolutional Neural Networks for Document
Processing", 2006). They are copied a few images at a time, so that they stay in the processor's
cache, and with the channels last, so that neighbours in memory are copied together. Where every
channel has a kernel of its own, the convolution is a sum of shifted images instead.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from image_pipeline.numerics.products import multiply
from image_pipeline.numerics.registration import DOUBLE, FLOAT, Kernel, fall_back

CACHED_BYTES = 1 << 20  # of patches at a time


class Geometry(NamedTuple):
    """Where the kernels of a convolution are laid: a number for each dimension of an image."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def reach(self, kernel: Sequence[int]) -> tuple[int, ...]:
        """Return the distance from the first to the last pixel that a kernel is laid on."""
        return tuple(gap * (side - 1) for gap, side in zip(self.dilation, kernel, strict=True))

    def seen(self, tap: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
        """Return the pixels of padded images `[B, ..., C]` that one tap of the kernel sees."""
        sides = zip(tap, self.dilation, self.stride, size, strict=True)
        pixels = (
            slice(place * gap, place * gap + step * (side - 1) + 1, step)
            for place, gap, step, side in sides
        )
        return slice(None), *pixels


def _chunks(images: Tensor, kernel: Sequence[int], pixels: int) -> Iterator[slice]:
    """Yield slices of images `[B, ..., C]` whose patches fill the cache."""
    area = images.itemsize * images.shape[-1] * math.prod(kernel) * pixels
    count = max(1, CACHED_BYTES // max(1, area))
    for start in range(0, len(images), count):
        yield slice(start, start + count)


def _padded(images: Tensor, at: Geometry) -> Tensor:
    """Return images `[B, ..., C]` with zeros around them."""
    if not any(at.padding):
        return images
    return functional.pad(
        images, [0, 0, *(side for pad in at.padding[::-1] for side in (pad, pad))]
    )


def _inner(size: Sequence[int], at: Geometry) -> tuple[slice, ...]:
    """Return where images of `size` are in padded ones."""
    sides = zip(at.padding, size, strict=True)
    return slice(None), *(slice(pad, pad + side) for pad, side in sides)


def _patches(
    images: Tensor, kernel: Sequence[int], size: Sequence[int], at: Geometry
) -> np.ndarray:
    """Return the patches of images.

    Args:
        images: `[B, ..., C]`.
        kernel: its size.
        size: of the result.
        at: where the kernels are laid.

    Returns:
        `[G, B * pixels of the result, kernel * C / G]`.
    """
    padded = _padded(images, at)
    count, *steps, channel = padded.stride()
    strides = (
        count,
        *(step * each for step, each in zip(steps, at.stride, strict=True)),
        *(step * gap for step, gap in zip(steps, at.dilation, strict=True)),
        channel,
    )
    shape = (len(images), *size, *kernel, images.shape[-1])
    patches = padded.as_strided(shape, strides)
    rows, taps = len(images) * math.prod(size), math.prod(kernel)
    grouped = patches.reshape(rows, taps, at.groups, -1).permute(2, 0, 1, 3)
    array: np.ndarray = grouped.reshape(at.groups, rows, -1).numpy()
    return array


def _convolve(images: Tensor, weight: Tensor, size: Sequence[int], at: Geometry) -> Tensor:
    """Return a convolution.

    Args:
        images: `[B, ..., C]`.
        weight: `[O, C / G, ...]`.
        size: of the result.
        at: where the kernels are laid.

    Returns:
        `[B, *size, O]`.
    """
    result = torch.empty((len(images), *size, len(weight)), dtype=images.dtype)
    grouped = weight.unflatten(0, (at.groups, -1))  # [G, O / G, C / G, ...]
    kernels = grouped.movedim(2, -1).flatten(2).transpose(1, 2).contiguous().numpy()
    for some in _chunks(images, weight.shape[2:], math.prod(size)):
        patches = _patches(images[some], weight.shape[2:], size, at)
        if at.groups == 1:
            result[some].flatten(0, -2).numpy()[...] = multiply(patches[0], kernels[0])
            continue
        columns = torch.from_numpy(multiply(patches, kernels)).transpose(0, 1)
        result[some] = columns.reshape(-1, *size, len(weight))
    return result


def _spread(values: Tensor, weight: Tensor, size: Sequence[int], at: Geometry) -> Tensor:
    """Return the gradient by the images: every value is added to the pixels of its patch.

    Args:
        values: `[B, ..., O]`.
        weight: `[O, C / G, ...]`.
        size: of the images.
        at: where the kernels were laid.

    Returns:
        `[B, *size, C]`.
    """
    kernel = weight.shape[2:]
    grouped = weight.unflatten(0, (at.groups, -1))  # [G, O / G, C / G, ...]
    padding = tuple(far - pad for far, pad in zip(at.reach(kernel), at.padding, strict=True))
    if set(at.stride) == {1} and min(padding) >= 0:  # a convolution by the turned kernels
        turned = grouped.transpose(1, 2).flatten(0, 1).flip(tuple(range(2, weight.dim())))
        return _convolve(values, turned, size, at._replace(padding=padding))
    kernels = grouped.movedim(2, -1).flatten(2).contiguous().numpy()
    channels, pixels = weight.shape[1] * at.groups, values.shape[1:-1]
    padded_size = [side + 2 * pad for side, pad in zip(size, at.padding, strict=True)]
    result = torch.empty((len(values), *size, channels), dtype=values.dtype)
    taps = [(tap, at.seen(tap, pixels)) for tap in np.ndindex(*kernel)]
    for some in _chunks(result, kernel, math.prod(pixels)):
        products = multiply(_by_group(values[some], at.groups), kernels)
        shape = (at.groups, -1, *pixels, *kernel, weight.shape[1])
        parts = torch.from_numpy(products).view(shape).movedim(0, -2)
        padded = torch.zeros((len(parts), *padded_size, channels), dtype=values.dtype)
        spread = padded.unflatten(-1, (at.groups, -1))
        for tap, place in taps:
            spread[place].add_(parts[(..., *tap, slice(None), slice(None))])
        result[some] = padded[_inner(size, at)]
    return result


def _by_group(values: Tensor, groups: int) -> np.ndarray:
    """Return values `[B, ..., O]` as `[G, B * pixels, O / G]`."""
    rows: np.ndarray = values.flatten(0, -2).unflatten(1, (groups, -1)).transpose(0, 1).numpy()
    return rows


def _by_weight(images: Tensor, values: Tensor, shape: Sequence[int], at: Geometry) -> Tensor:
    """Return the gradient by the weights `[O, C / G, ...]`: the sum over images, in their order."""
    kernel, size = shape[2:], values.shape[1:-1]
    total = np.zeros((at.groups, shape[0] // at.groups, math.prod(shape[1:])), _dtype(images))
    for some in _chunks(images, kernel, math.prod(size)):
        patches = _patches(images[some], kernel, size, at)
        total += multiply(_by_group(values[some], at.groups).swapaxes(-1, -2), patches)
    return torch.from_numpy(total).view(shape[0], *kernel, shape[1]).movedim(-1, 1).contiguous()


# --- Every channel has a kernel of its own ---


def _taps(weight: Tensor) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Yield the places in the kernels `[C, 1, ...]`, and their weights `[C]`."""
    for tap in np.ndindex(*weight.shape[2:]):
        yield tap, weight[(slice(None), 0, *tap)].contiguous()


def _convolve_channels(images: Tensor, weight: Tensor, size: Sequence[int], at: Geometry) -> Tensor:
    """Return `_convolve` where every channel has a kernel of its own."""
    result = torch.zeros((len(images), *size, len(weight)), dtype=images.dtype)
    for some in _chunks(images, (), math.prod(images.shape[1:-1])):
        padded = _padded(images[some], at)
        for tap, factors in _taps(weight):
            result[some].addcmul_(padded[at.seen(tap, size)], factors)
    return result


def _spread_channels(values: Tensor, weight: Tensor, size: Sequence[int], at: Geometry) -> Tensor:
    """Return `_spread` where every channel has a kernel of its own."""
    padded_size = [side + 2 * pad for side, pad in zip(size, at.padding, strict=True)]
    result = torch.empty((len(values), *size, len(weight)), dtype=values.dtype)
    for some in _chunks(result, (), math.prod(size)):
        part = values[some]
        padded = torch.zeros((len(part), *padded_size, len(weight)), dtype=values.dtype)
        for tap, factors in _taps(weight):
            padded[at.seen(tap, values.shape[1:-1])].addcmul_(part, factors)
        result[some] = padded[_inner(size, at)]
    return result


def _by_channel_weight(
    images: Tensor, values: Tensor, shape: Sequence[int], at: Geometry
) -> Tensor:
    """Return `_by_weight` where every channel has a kernel of its own."""
    total = torch.zeros(*shape, dtype=images.dtype)
    size = values.shape[1:-1]
    for some in _chunks(images, (), math.prod(images.shape[1:-1])):
        padded, part = _padded(images[some], at), values[some]
        for tap in np.ndindex(*shape[2:]):
            products = padded[at.seen(tap, size)] * part
            total[(slice(None), 0, *tap)].add_(products.flatten(0, -2).sum(0))
    return total


# --- The operations ---


def _dtype(tensor: Tensor) -> type[np.floating[Any]]:
    return np.float32 if tensor.dtype is FLOAT else np.float64


def _fits(*tensors: Tensor) -> bool:
    dtype, dims = tensors[0].dtype, tensors[0].dim()
    return dtype in (FLOAT, DOUBLE) and all(
        x.dtype is dtype and x.numel() and x.dim() == dims for x in tensors
    )


def _channels_last(images: Tensor) -> Tensor:
    """Return `[B, ..., C]` of images `[B, C, ...]`."""
    return images.detach().movedim(1, -1).contiguous()


def _channels_first(result: Tensor, *inputs: Tensor) -> Tensor:
    """Return `[B, C, ...]` of a result `[B, ..., C]`, in the memory format that PyTorch gives."""
    first = result.movedim(-1, 1)
    last = any(
        x.dim() == 4
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()
        for x in inputs
    )
    return first if last else first.contiguous()


def _of_each(dims: int, numbers: Sequence[int]) -> tuple[int, ...]:
    return tuple(numbers) * (dims if len(numbers) == 1 else 1)


def _geometry(dims: int, stride: Any, padding: Any, dilation: Any, groups: int) -> Geometry:
    return Geometry(
        _of_each(dims, stride), _of_each(dims, padding), _of_each(dims, dilation), groups
    )


def _is_by_channel(weight: Tensor, groups: int) -> bool:
    return groups > 1 and weight.shape[0] == groups and weight.shape[1] == 1


def _size(images: Tensor, weight: Tensor, at: Geometry) -> list[int]:
    """Return the size of a convolution's result: see `torch.nn.Conv2d`."""
    sides = zip(images.shape[2:], at.stride, at.padding, at.reach(weight.shape[2:]), strict=True)
    return [(side + 2 * pad - far - 1) // step + 1 for side, step, pad, far in sides]


def _transposed_size(
    images: Tensor, weight: Tensor, at: Geometry, extra: Sequence[int]
) -> list[int]:
    """Return the size of a transposed convolution's result: see `torch.nn.ConvTranspose2d`."""
    reach = at.reach(weight.shape[2:])
    sides = zip(images.shape[2:], at.stride, at.padding, reach, extra, strict=True)
    return [(side - 1) * step - 2 * pad + far + more + 1 for side, step, pad, far, more in sides]


def convolution(
    images: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    *choices: bool,
) -> Tensor:
    """Return a convolution, or a transposed one, of images `[B, C, ...]`.

    `choices` are of a library on GPUs.
    """
    size: list[int] = []
    if _fits(images, weight):
        dims = images.dim() - 2
        at = _geometry(dims, stride, padding, dilation, groups)
        extra = _of_each(dims, output_padding)
        size = (
            _transposed_size(images, weight, at, extra) if transposed else _size(images, weight, at)
        )
    inputs = len(weight) if transposed else weight.shape[1] * groups
    if min(size, default=0) < 1 or images.shape[1] != inputs or len(weight) % groups:
        rest = stride, padding, dilation, transposed, output_padding, groups, *choices
        result: Tensor = fall_back("_convolution", images, weight, bias, *rest)
        return result
    if _is_by_channel(weight, groups):
        compute = _spread_channels if transposed else _convolve_channels
    else:
        compute = _spread if transposed else _convolve
    result = compute(_channels_last(images), weight.detach(), size, at)
    if bias is not None:
        result.add_(bias.detach())
    return _channels_first(result, images, weight)


def convolution_backward(
    gradient: Tensor,
    images: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    wanted: Sequence[bool],
) -> Any:
    """Return the gradients by images, weight and bias, those that are wanted."""
    if not _fits(gradient, images, weight):
        rest = bias_sizes, stride, padding, dilation, transposed, output_padding, groups, wanted
        return fall_back("convolution_backward", gradient, images, weight, *rest)
    at = _geometry(images.dim() - 2, stride, padding, dilation, groups)
    values, inputs = _channels_last(gradient), _channels_last(images)
    by_channel = _is_by_channel(weight, groups)
    by_images = by_weight = by_bias = None
    if wanted[0]:
        if by_channel:
            compute = _convolve_channels if transposed else _spread_channels
        else:
            compute = _convolve if transposed else _spread
        by_images = compute(values, weight.detach(), images.shape[2:], at)
        by_images = _channels_first(by_images, images, weight)
    if wanted[1]:
        pair = (values, inputs) if transposed else (inputs, values)
        by_weight = (_by_channel_weight if by_channel else _by_weight)(*pair, weight.shape, at)
    if wanted[2]:
        by_bias = values.flatten(0, -2).sum(0)
    return by_images, by_weight, by_bias


KERNELS: dict[str, Kernel] = {
    "_convolution": convolution,  # `convolution` calls it; the exporter to ONNX stops here
    "convolution_backward": convolution_backward,
}
