"""Sums, and what is made of them: softmax, normalisation, vector norms, variances.

PyTorch's own sums add in the same order on every processor, but for 4 to 7 float32 values that are
neighbours in memory: whether they fill a vector depends on the processor. Those are NumPy's, which
are not vectorised. What PyTorch computes in one operation with sums inside (softmax, norms of
layers) is composed of sums and elementwise steps here, each of which is rounded in one way only.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from image_pipeline.numerics.functions import exp, log, sqrt
from image_pipeline.numerics.registration import (
    DOUBLE,
    FLOAT,
    HALVES,
    Kernel,
    array_of,
    fall_back,
    variants,
)

VECTOR = range(4, 8)  # neighbours that fill a vector on ARM and not on x86-64


def _all_dims(x: Tensor, dims: Sequence[int] | int | None) -> tuple[int, ...]:
    if dims is None or dims == [] or dims == ():
        return tuple(range(x.dim()))
    dims = [dims] if isinstance(dims, int) else dims
    return tuple(sorted({dim % max(1, x.dim()) for dim in dims}))


def _run(x: Tensor, dims: Sequence[int]) -> int:
    """Return how many neighbours in memory are all summed, or all kept."""
    run, summed = 1, None
    for stride, size, dim in sorted(zip(x.stride(), x.shape, range(x.dim()), strict=True)):
        if size == 1:
            continue
        if stride != run or summed not in (None, dim in dims):
            break
        run, summed = run * size, dim in dims
    return run


def _sum(
    x: Tensor, dims: Sequence[int] | None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor | None:
    """Return sums over `dims`, those of 4 to 7 neighbours in NumPy's order."""
    if x.dtype is not FLOAT or dtype not in (None, FLOAT) or not x.dim():
        return None
    dims = _all_dims(x, dims)
    if _run(x, dims) not in VECTOR:
        return None
    total = array_of(x).sum(axis=dims, keepdims=keepdim)
    return torch.from_numpy(np.asarray(total))


# --- Softmax ---


def _by_dim(compute: Any, *tensors: Tensor, dim: int) -> Tensor:
    """Apply a function of `[rows, values]` along a dimension; half precision as float32."""
    dtype = tensors[0].dtype
    rows = [
        (x.float() if x.dtype in HALVES else x).detach().movedim(dim, -1).contiguous()
        for x in tensors
    ]
    result: Tensor = compute(*rows)
    return result.movedim(-1, dim).to(dtype).contiguous()


def _row_sums(x: Tensor) -> Tensor:
    """Return the sums of the last dimension, kept: NumPy's, in pairs."""
    return torch.from_numpy(np.add.reduce(x.numpy(), axis=-1, keepdims=True))


def _shifted(x: Tensor) -> Tensor:
    return x - x.amax(-1, keepdim=True)


def _softmax(x: Tensor, dim: int, to_float: bool) -> Tensor | None:
    if to_float or not x.dim() or not x.numel():
        return None

    def compute(x: Tensor) -> Tensor:
        powers = exp(_shifted(x))
        return powers.div_(_row_sums(powers))

    return _by_dim(compute, x, dim=dim)


def _log_softmax(x: Tensor, dim: int, to_float: bool) -> Tensor | None:
    if to_float or not x.dim() or not x.numel():
        return None

    def compute(x: Tensor) -> Tensor:
        shifted = _shifted(x)
        return shifted.sub_(log(_row_sums(exp(shifted))))

    return _by_dim(compute, x, dim=dim)


def _softmax_backward(gradient: Tensor, output: Tensor, dim: int, dtype: Any) -> Tensor | None:
    if dtype is not gradient.dtype or not output.dim() or not output.numel():
        return None

    def compute(gradient: Tensor, output: Tensor) -> Tensor:
        product = gradient * output
        return product.sub_(output * _row_sums(product))

    return _by_dim(compute, gradient, output, dim=dim)


def _log_softmax_backward(gradient: Tensor, output: Tensor, dim: int, dtype: Any) -> Tensor | None:
    if dtype is not gradient.dtype or not output.dim() or not output.numel():
        return None

    def compute(gradient: Tensor, output: Tensor) -> Tensor:
        return gradient - exp(output).mul_(_row_sums(gradient))

    return _by_dim(compute, gradient, output, dim=dim)


# --- Normalisation of layers ---


def _fits(*tensors: Tensor | None) -> bool:
    """Return whether all are of one dtype that is computed here, and not empty."""
    given = [x for x in tensors if x is not None]
    return given[0].dtype in (FLOAT, DOUBLE) and all(
        x.dtype is given[0].dtype and x.numel() for x in given
    )


def _moments(x: Tensor, dims: Any) -> tuple[Tensor, Tensor]:
    """Return the mean and the biased variance over `dims`, kept: in two passes."""
    count = math.prod(x.shape[dim] for dim in dims)
    mean = x.sum(dims, keepdim=True).div_(count)
    centred = x - mean
    return mean, centred.mul_(centred).sum(dims, keepdim=True).div_(count)


def _normalised_backward(gradient: Tensor, normalised: Tensor, rstd: Tensor, dims: Any) -> Tensor:
    """Return the gradient by `x`, where `normalised = (x - mean) * rstd`."""
    count = math.prod(gradient.shape[dim] for dim in dims)
    mean = gradient.sum(dims, keepdim=True).div_(count)
    along = (gradient * normalised).sum(dims, keepdim=True).div_(count)
    return (gradient - mean).sub_(normalised * along).mul_(rstd)


def _reciprocal_deviation(variance: Tensor, eps: float) -> Tensor:
    return sqrt(variance + eps).reciprocal_()


def _by_channel(values: Tensor, x: Tensor) -> Tensor:
    """Return values `[C]` so that they are broadcast to images `[B, C, ...]`."""
    return values.reshape(1, -1, *[1] * (x.dim() - 2))


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Multiply and add in place."""
    x = x if weight is None else x.mul_(weight)
    return x if bias is None else x.add_(bias)


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Any,
    running_variance: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """Normalise each channel of `[B, C, ...]`; return the result, the means and 1 / deviation."""
    running = running_mean, running_variance
    if x.dim() < 2 or not _fits(x, weight, bias, *running):
        return fall_back("native_batch_norm", x, weight, bias, *running, training, momentum, eps)
    dims = [0, *range(2, x.dim())]
    if training:
        mean, variance = _moments(x, dims)
        rstd = _reciprocal_deviation(variance, eps)
        count = x.numel() // x.shape[1]
        if running_mean is not None:
            running_mean.mul_(1 - momentum).add_(mean.flatten() * momentum)
        if running_variance is not None:
            unbiased = variance.flatten().mul_(count / max(1, count - 1))
            running_variance.mul_(1 - momentum).add_(unbiased.mul_(momentum))
        saved = mean.flatten(), rstd.flatten()
    else:
        mean = _by_channel(running_mean, x)
        rstd = _by_channel(_reciprocal_deviation(running_variance, eps), x)
        saved = x.new_empty(0), x.new_empty(0)
    scale, shift = (None if v is None else _by_channel(v.detach(), x) for v in (weight, bias))
    return _scaled((x - mean).mul_(rstd), scale, shift), *saved


def batch_norm_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Any,
    running_variance: Any,
    mean: Any,
    rstd: Any,
    training: bool,
    eps: float,
    wanted: Sequence[bool],
) -> Any:
    """Return the gradients by images, weight and bias, those that are wanted."""
    if x.dim() < 2 or not _fits(gradient, x, weight):
        return fall_back(
            *("native_batch_norm_backward", gradient, x, weight, running_mean, running_variance),
            *(mean, rstd, training, eps, wanted),
        )
    dims = [0, *range(2, x.dim())]
    if not training:
        mean, rstd = running_mean, _reciprocal_deviation(running_variance, eps)
    spread = _by_channel(rstd, x)
    normalised = (x - _by_channel(mean, x)).mul_(spread)
    by_x = by_weight = by_bias = None
    if wanted[0]:
        scaled = gradient if weight is None else gradient * _by_channel(weight.detach(), x)
        if training:
            by_x = _normalised_backward(scaled, normalised, spread, dims)
        else:
            by_x = scaled * spread
    if wanted[1]:
        by_weight = (gradient * normalised).sum(dims)
    if wanted[2]:
        by_bias = gradient.sum(dims)
    return by_x, by_weight, by_bias


def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Any:
    """Normalise over the last dimensions; return the result, the means and 1 / deviation."""
    if not _fits(x, weight, bias) or list(x.shape[x.dim() - len(shape) :]) != list(shape):
        return fall_back("native_layer_norm", x, shape, weight, bias, eps)
    dims = tuple(range(x.dim() - len(shape), x.dim()))
    x = x.contiguous()
    mean, variance = _moments(x, dims)
    rstd = _reciprocal_deviation(variance, eps)
    return _scaled((x - mean).mul_(rstd), weight, bias), mean, rstd


def layer_norm_backward(
    gradient: Tensor,
    x: Tensor,
    shape: Sequence[int],
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    wanted: Sequence[bool],
) -> Any:
    """Return the gradients by input, weight and bias, those that are wanted."""
    if not _fits(gradient, x, weight, mean):
        return fall_back(
            *("native_layer_norm_backward", gradient, x, shape, mean, rstd, weight, bias, wanted)
        )
    inner = tuple(range(x.dim() - len(shape), x.dim()))
    outer = tuple(range(x.dim() - len(shape)))
    gradient, x = gradient.contiguous(), x.contiguous()
    normalised = (x - mean).mul_(rstd)
    by_x = by_weight = by_bias = None
    if wanted[0]:
        scaled = gradient if weight is None else gradient * weight.detach()
        by_x = _normalised_backward(scaled, normalised, rstd, inner)
    if wanted[1] and weight is not None:
        along = gradient * normalised
        by_weight = along.sum(outer) if outer else along
    if wanted[2] and bias is not None:
        by_bias = gradient.sum(outer) if outer else gradient.clone()
    return by_x, by_weight, by_bias


def group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    count: int,
    channels: int,
    pixels: int,
    groups: int,
    eps: float,
) -> Any:
    """Normalise each group of channels; return the result, and means and 1 / deviation `[B, G]`."""
    if not _fits(x, weight, bias):
        return fall_back("native_group_norm", x, weight, bias, count, channels, pixels, groups, eps)
    rows = x.contiguous().view(count, groups, -1)
    mean, variance = _moments(rows, [2])
    rstd = _reciprocal_deviation(variance, eps)
    normalised = (rows - mean).mul_(rstd).view(count, channels, pixels)
    scale, shift = (None if v is None else v.detach()[:, None] for v in (weight, bias))
    result = _scaled(normalised, scale, shift).view(x.shape)
    return result, mean.view(count, groups), rstd.view(count, groups)


def group_norm_backward(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    count: int,
    channels: int,
    pixels: int,
    groups: int,
    wanted: Sequence[bool],
) -> Any:
    """Return the gradients by input, weight and bias, those that are wanted."""
    if not _fits(gradient, x, mean, rstd, weight):
        return fall_back(
            *("native_group_norm_backward", gradient, x, mean, rstd, weight),
            *(count, channels, pixels, groups, wanted),
        )
    grouped, planes = (count, groups, -1), (count, channels, pixels)
    spread = rstd.view(count, groups, 1)
    rows = x.contiguous().view(grouped)
    normalised = (rows - mean.view(count, groups, 1)).mul_(spread)
    gradient = gradient.contiguous().view(planes)
    by_x = by_weight = by_bias = None
    if wanted[0]:
        scaled = gradient if weight is None else gradient * weight.detach()[:, None]
        by_x = _normalised_backward(scaled.reshape(grouped), normalised, spread, [2]).view(x.shape)
    if wanted[1]:
        by_weight = (gradient * normalised.view(planes)).sum((0, 2))
    if wanted[2]:
        by_bias = gradient.sum((0, 2))
    return by_x, by_weight, by_bias


# --- Norms of vectors, variances ---


def _vector_norm(
    x: Tensor, order: Any = 2, dims: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor | None:
    """Return Euclidean norms."""
    if order != 2 or not x.numel() or dtype not in (None, x.dtype) or not _fits(x):
        return None
    x = x.detach()
    return sqrt((x * x).sum(_all_dims(x, dims), keepdim=keepdim))


def weight_norm(x: Tensor, scale: Tensor, dim: int = 0) -> Any:
    """Return `x` with its slices along `dim` at the given norms, and their norms before."""
    if dim < 0 or not _fits(x, scale):
        return fall_back("_weight_norm_interface", x, scale, dim)
    norms: Any = _vector_norm(x, 2, [each for each in range(x.dim()) if each != dim], keepdim=True)
    return x.detach() * (scale.detach() / norms), norms


def weight_norm_backward(
    gradient: Tensor, x: Tensor, scale: Tensor, norms: Tensor, dim: int
) -> Any:
    """Return the gradients by `x` and by the norms that were given."""
    if dim < 0 or not _fits(gradient, x, scale, norms):
        return fall_back("_weight_norm_interface_backward", gradient, x, scale, norms, dim)
    others = [each for each in range(x.dim()) if each != dim]
    along = (gradient * x).sum(others, keepdim=True) / norms
    return (gradient - x * (along / norms)) * (scale / norms), along


def _variance(
    x: Tensor, dims: Any = None, *, correction: Any = None, keepdim: bool = False
) -> tuple[Tensor, Tensor] | None:
    """Return variance and mean."""
    if not x.numel() or not _fits(x):
        return None
    dims = _all_dims(x, dims)
    mean, variance = _moments(x.detach(), dims)
    count = math.prod(x.shape[dim] for dim in dims)
    degrees = max(0, count - (1 if correction is None else correction))
    variance = variance.mul_(count).div_(degrees)
    return (variance, mean) if keepdim else (_squeeze(variance, dims), _squeeze(mean, dims))


def _squeeze(x: Tensor, dims: Sequence[int]) -> Tensor:
    return x.squeeze(tuple(dims)) if dims else x


def _var(x: Tensor, dims: Any = None, **named: Any) -> Tensor | None:
    found = _variance(x, dims, **named)
    return None if found is None else found[0]


def _std(x: Tensor, dims: Any = None, **named: Any) -> Tensor | None:
    found = _variance(x, dims, **named)
    return None if found is None else sqrt(found[0])


def var_mean(x: Tensor, dims: Any = None, **named: Any) -> Any:
    """Return variance and mean."""
    found = _variance(x, dims, **named)
    return fall_back("var_mean.correction", x, dims, **named) if found is None else found


def std_mean(x: Tensor, dims: Any = None, **named: Any) -> Any:
    """Return standard deviation and mean."""
    found = _variance(x, dims, **named)
    if found is None:
        return fall_back("std_mean.correction", x, dims, **named)
    return sqrt(found[0]), found[1]


KERNELS: dict[str, Kernel] = {
    **variants(_sum, "sum.dim_IntList", "sum.IntList_out"),
    **variants(_softmax, "_softmax", "_softmax.out"),
    **variants(_log_softmax, "_log_softmax", "_log_softmax.out"),
    **variants(_softmax_backward, "_softmax_backward_data"),
    **variants(_log_softmax_backward, "_log_softmax_backward_data"),
    **variants(_vector_norm, "linalg_vector_norm", "linalg_vector_norm.out"),
    **variants(_var, "var.correction", "var.correction_out"),
    **variants(_std, "std.correction", "std.correction_out"),
    "var_mean.correction": var_mean,
    "std_mean.correction": std_mean,
    "_weight_norm_interface": weight_norm,
    "_weight_norm_interface_backward": weight_norm_backward,
    "native_batch_norm": batch_norm,
    "native_batch_norm_backward": batch_norm_backward,
    "native_layer_norm": layer_norm,
    "native_layer_norm_backward": layer_norm_backward,
    "native_group_norm": group_norm,
    "native_group_norm_backward": group_norm_backward,
}
