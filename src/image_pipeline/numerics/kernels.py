"""CPU kernels of PyTorch operations that are bit-identical on every x86-64 processor.

They are registered under PyTorch's own names, so ordinary networks use them unchanged. Only leaf
operations are replaced, those with a derivative in autograd that call no other operation: replacing
composite ones such as `linear` or `dropout` would remove their derivatives.

- Matrix products are NumPy's: PyTorch takes them from MKL, which has no setting that is both fast
  and bit-identical on AMD's processors. NumPy's OpenBLAS is pinned (see the package). So are
  convolutions by kernels of one pixel: with one thread and fewer than 16 images, PyTorch computes
  them as products of MKL's, which take three times as long.
- Elementwise functions that PyTorch takes from MKL's vector library are replaced: even held to
  `COMPATIBLE`, its rounding depends on the processor (roots and arc functions often, logarithms
  once in a hundred thousand). The square root is NumPy's: correctly rounded, as IEEE 754 requires
  of the processor's own instruction. The others are composed of PyTorch's own functions and are
  accurate to a few units in the last place.
- Bernoulli and exponential draws are derived from uniform ones. PyTorch takes them from MKL on
  Intel's processors, if built with it, and from its own generator on others
  (DistributionKernels.cpp), which gives different numbers for the same seed.

Arguments that these kernels do not support (integers, functions of complex numbers, shapes that do
not match) go to PyTorch's own kernel, which computes them or raises its own error.
"""

import math
import operator
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from image_pipeline.numerics.torch_private import CPU

Kernel = Callable[..., Tensor]

_FLOAT, _DOUBLE = torch.float32, torch.float64
_COMPLEX = (torch.complex64, torch.complex128)
_HALVES = (torch.float16, torch.bfloat16)  # computed in float32: NumPy multiplies them slowly

_library: torch.library.Library | None = None  # must stay alive: kernels are unregistered with it
_replaced: dict[str, Callable[..., Any]] = {}  # PyTorch's own kernels


def install(*, products_only: bool = False) -> None:
    """Register the kernels for the rest of this process; calling it again changes nothing.

    Args:
        products_only: replace the matrix products only.
    """
    global _library
    _library = _library or torch.library.Library("aten", "IMPL")
    for name, kernel in (PRODUCTS if products_only else PRODUCTS | OTHERS).items():
        if name not in _replaced:
            _replaced[name] = torch.library.get_kernel(f"aten::{name}", "CPU").call_boxed
            _library.impl(name, kernel, "CPU")


def _fall_back(name: str, *arguments: Any, **named: Any) -> Tensor:
    """Call PyTorch's own kernel, which was replaced."""
    result: Tensor = _replaced[name](CPU, *arguments, **named)
    return result


def _into(out: Tensor, result: Tensor) -> Tensor:
    """Write the result to the tensor passed as `out=`, resized to its shape."""
    if out.shape != result.shape:
        if out.numel():
            warnings.warn(
                "An output with one or more elements was resized since it had shape "
                f"{list(out.shape)}, which does not match the required output shape "
                f"{list(result.shape)}.",
                stacklevel=3,
            )
        out.resize_(result.shape)
    return out.copy_(result)


# Infinity and NaN are ordinary results: PyTorch does not warn of them.
_quietly = np.errstate(all="ignore")


def _kernels(
    compute: Callable[..., Tensor | None],
    *names: str,
    fits: Callable[[torch.dtype, torch.dtype], bool] = operator.is_,
) -> dict[str, Kernel]:
    """Return the kernels of an operation, by name.

    Args:
        compute: takes the operation's arguments; returns None for those that are left to PyTorch.
        names: of the operation, of its variant with `out=`, and of the one in place.
        fits: whether a result of the first dtype can be written to `out` of the second.
    """

    @_quietly
    def functional(*arguments: Any, **named: Any) -> Tensor:
        result = compute(*arguments, **named)
        return _fall_back(names[0], *arguments, **named) if result is None else result

    @_quietly
    def with_out(*arguments: Any, out: Tensor, **named: Any) -> Tensor:
        result = compute(*arguments, **named)
        if result is None or not fits(result.dtype, out.dtype):
            return _fall_back(names[1], *arguments, out=out, **named)
        return _into(out, result)

    @_quietly
    def in_place(target: Tensor, *arguments: Any, **named: Any) -> Tensor:
        result = compute(target, *arguments, **named)
        if result is None or (result.dtype, result.shape) != (target.dtype, target.shape):
            return _fall_back(names[2], target, *arguments, **named)
        return target.copy_(result)

    return dict(zip(names, (functional, with_out, in_place), strict=False))


# --- Matrix products ---


def _array(tensor: Tensor) -> np.ndarray:
    """Return a view of a tensor, which may require a gradient, or a copy if it is not stored so."""
    wide = tensor.float() if tensor.dtype in _HALVES else tensor.resolve_conj()
    array: np.ndarray = wide.detach().numpy()
    return array


def _blas_layout(array: np.ndarray) -> np.ndarray:
    """Return the array in a layout that OpenBLAS accepts: for others NumPy uses a slow loop."""
    (row, column), (rows, columns), size = array.strides[-2:], array.shape[-2:], array.itemsize
    if (column == size and row >= size * columns) or (row == size and column >= size * rows):
        return array
    return np.ascontiguousarray(array)


def _addmm(
    rank: int, added: Tensor | None, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Tensor | None:
    """Return `beta * added + alpha * a @ b`.

    Args:
        rank: of `a` and `b`: 2 for matrices, 3 for batches of them.
        added: float, broadcastable to `[..., m, n]`, not read if beta is 0; None: 0.
        a: same dtype, `[..., m, k]`.
        b: same dtype, `[..., k, n]`.
        beta: scalar.
        alpha: scalar.
    """
    dtype = a.dtype
    if dtype is not b.dtype or dtype not in (_FLOAT, _DOUBLE, *_COMPLEX, *_HALVES):
        return None
    x, y = _array(a), _array(b)
    if not x.ndim == y.ndim == rank or x.shape[-1] != y.shape[-2] or x.shape[:-2] != y.shape[:-2]:
        return None
    shape = x.shape[:-1] + y.shape[-1:]
    result = torch.empty(shape, dtype=_FLOAT if dtype in _HALVES else dtype)
    total = result.numpy()
    if rank == 3 or not x.flags.forc:
        x = _blas_layout(x)
    if rank == 3 or not y.flags.forc:
        y = _blas_layout(y)
    np.matmul(x, y, out=total)
    if alpha != 1:
        total *= alpha
    if added is not None:
        if dtype is not added.dtype:
            return None
        try:
            if beta == 1:
                total += _array(added)
            elif beta != 0:
                total += _array(added) * beta
            else:
                torch.broadcast_to(added, shape)
        except (ValueError, RuntimeError):  # it does not broadcast
            return None
    return result if result.dtype is dtype else result.to(dtype)


def _addmv(added: Tensor, matrix: Tensor, vector: Tensor, **factors: Any) -> Tensor | None:
    """Return `_addmm` with the vector as a matrix of one column."""
    if vector.dim() != 1 or added.dim() > 1:
        return None
    result = _addmm(2, added.unsqueeze(-1), matrix, vector.unsqueeze(-1), **factors)
    return None if result is None else result.squeeze(-1)


def _dot(a: Tensor, b: Tensor) -> Tensor | None:
    """Return the dot product of two vectors."""
    if not a.dim() == b.dim() == 1:
        return None
    result = _addmm(2, None, a.unsqueeze(0), b.unsqueeze(1))
    return None if result is None else result.reshape(())


def _is_product(images: Tensor, weight: Tensor, stride: Any, padding: Any) -> bool:
    """Return whether a convolution is a matrix product: its kernels are single pixels."""
    return (
        images.dtype is weight.dtype
        and images.dtype in (_FLOAT, _DOUBLE)
        and images.dim() == 4
        and images.numel() > 0
        and (*weight.shape[2:], *stride, *padding) == (1, 1, 1, 1, 0, 0)
    )


def _columns(images: Tensor) -> np.ndarray:
    """Return a view of images `[B, C, H, W]` as matrices that have a column for each pixel.

    Returns:
        `[1, C, B * H * W]` where the channels come last in memory, otherwise `[B, C, H * W]`.
    """
    if images.is_contiguous(memory_format=torch.channels_last):
        return _array(images.transpose(0, 1).flatten(1)[None])
    return _array(images.flatten(2))


def _memory_format(images: Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _conv2d(
    images: Tensor, weight: Tensor, _: Any, bias: Tensor | None, stride: Any, padding: Any
) -> Tensor | None:
    """Return a convolution by kernels of one pixel."""
    if not _is_product(images, weight, stride, padding):
        return None
    layout = _memory_format(images)
    shape = len(images), len(weight), *images.shape[2:]
    result = torch.empty(shape, dtype=images.dtype, memory_format=layout)
    images = images.contiguous(memory_format=layout)
    np.matmul(_array(weight)[:, :, 0, 0], _columns(images), out=_columns(result))
    return result if bias is None else result.add_(bias.detach()[:, None, None])


@_quietly
def _conv2d_backward(
    gradient: Tensor,
    images: Tensor,
    weight: Tensor,
    size: Any,
    stride: Any,
    padding: Any,
    wanted: Sequence[bool],
) -> Sequence[Tensor | None]:
    """Return the gradients by images, weight and bias, those that are wanted."""
    arguments = (gradient, images, weight, size, stride, padding, wanted)
    if not _is_product(images, weight, stride, padding) or gradient.dtype is not images.dtype:
        return tuple(_fall_back("_slow_conv2d_backward.output_mask", *arguments))
    layout = _memory_format(images)
    images, gradient = (x.contiguous(memory_format=layout) for x in (images, gradient))
    by_images = by_weight = by_bias = None
    if wanted[0]:
        by_images = torch.empty(images.shape, dtype=images.dtype, memory_format=layout)
        np.matmul(_array(weight)[:, :, 0, 0].T, _columns(gradient), out=_columns(by_images))
    if wanted[1]:
        products = np.matmul(_columns(gradient), _columns(images).swapaxes(1, 2))
        by_weight = torch.from_numpy(products.sum(0)).reshape(weight.shape)
    if wanted[2]:
        by_bias = gradient.sum((0, 2, 3))
    return by_images, by_weight, by_bias


# `mv`, `addbmm` and the other products call these.
PRODUCTS = {
    **_kernels(partial(_addmm, 2, None), "mm", "mm.out"),
    **_kernels(partial(_addmm, 3, None), "bmm", "bmm.out"),
    **_kernels(partial(_addmm, 2), "addmm", "addmm.out", "addmm_"),
    **_kernels(partial(_addmm, 3), "baddbmm", "baddbmm.out", "baddbmm_"),
    **_kernels(_addmv, "addmv", "addmv.out", "addmv_"),
    **_kernels(_dot, "dot"),
    **_kernels(lambda a, b: _dot(a.conj(), b), "vdot"),
    **_kernels(_conv2d, "_slow_conv2d_forward", "_slow_conv2d_forward.output"),
    "_slow_conv2d_backward.output_mask": _conv2d_backward,
}

# --- Elementwise functions ---

_E = math.e
_E_MISSING = 5.317e-17  # (e - _E) / e: relative rounding error of the double above


def _elementwise(compute: Kernel, values: Tensor) -> Tensor | None:
    """Compute a function of floats, or of integers as default floats."""
    dtype = values.dtype
    if not dtype.is_floating_point:
        if dtype.is_complex:
            return None
        dtype = torch.get_default_dtype()
    wide = values.detach().to(_FLOAT if dtype in _HALVES else dtype)
    result: Tensor = compute(wide)
    return result.to(dtype)


def _function(name: str, compute: Kernel) -> dict[str, Kernel]:
    """Return the kernels of `name`, which `compute` evaluates for float32 and float64."""
    names = name, f"{name}.out", f"{name}_"
    return _kernels(partial(_elementwise, compute), *names, fits=torch.can_cast)


def _in_double(compute: Kernel) -> Kernel:
    """Return `compute` in float64, rounded back, for what would lose too much in float32."""
    return lambda values: compute(values.double()).to(values.dtype)


def _sqrt(x: Tensor) -> Tensor:
    root = torch.empty_like(x)
    np.sqrt(x.numpy(), out=root.numpy())
    return root


def _exp(x: Tensor) -> Tensor:
    power = torch.pow(_E, x)
    return power + power * (x.clamp(-1000, 1000) * _E_MISSING)


def _tanh(x: Tensor) -> Tensor:
    shifted = torch.expm1(x.abs().mul_(-2))  # exp(-2 |x|) - 1
    return shifted.neg().div_(shifted.add(2)).copysign_(x)


def _log(x: Tensor) -> Tensor:
    return torch.xlogy(1, x)


def _unit_circle(x: Tensor) -> Tensor:
    """Return cos x and sin x, as the real and imaginary part of a complex number."""
    return torch.polar(torch.ones_like(x), x)


def _tan(x: Tensor) -> Tensor:
    point = _unit_circle(x)
    return point.imag / point.real


def _cofunction(x: Tensor) -> Tensor:
    """Return the cosine of an angle from its sine, or its sine from its cosine."""
    return _sqrt((1 - x) * (1 + x))


def _erf(x: Tensor) -> Tensor:
    return torch.igamma(torch.full_like(x, 0.5), x * x).copysign_(x)


def _erfc(x: Tensor) -> Tensor:
    half, square = torch.full_like(x, 0.5), x * x
    return torch.where(x > 0, torch.igammac(half, square), 1 + torch.igamma(half, square))


def _erfinv(x: Tensor) -> Tensor:
    near_zero = (
        x * (math.sqrt(math.pi) / 2) * (1 + math.pi / 12 * x * x)
    )  # where x + 1 would round x off
    inverse = torch.special.ndtri((x + 1) / 2) / math.sqrt(2)
    return torch.where(x.abs() < 1e-3, near_zero, inverse)


# Each composed of functions that PyTorch does not take from MKL.
FUNCTIONS = {
    **_function("sqrt", _sqrt),
    **_function("exp", _in_double(_exp)),
    **_function("log", _log),
    **_function("log2", _in_double(lambda x: _log(x) / math.log(2))),
    **_function("log10", _in_double(lambda x: _log(x) / math.log(10))),
    **_function("sin", lambda x: _unit_circle(x).imag.contiguous()),
    **_function("cos", lambda x: _unit_circle(x).real.contiguous()),
    **_function("tan", _in_double(_tan)),
    **_function("asin", lambda x: torch.atan2(x, _cofunction(x))),
    **_function("acos", lambda x: torch.atan2(_cofunction(x), x)),
    **_function("atan", lambda x: torch.atan2(x, torch.ones_like(x))),
    **_function("tanh", _tanh),
    **_function("erf", _in_double(_erf)),
    **_function("erfc", _in_double(_erfc)),
    **_function("erfinv", _in_double(_erfinv)),
}


def _power(values: Tensor, exponent: Any) -> Tensor | None:
    """Return the square root for an exponent of 0.5."""
    return _elementwise(_sqrt, values) if exponent == 0.5 else None


# --- Draws ---


def _uniform(values: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return draws from [0, 1): in place for float32 and float64, else in a new float32 tensor."""
    if values.dtype is not _FLOAT and values.dtype is not _DOUBLE:
        values = torch.empty_like(values, dtype=_FLOAT)
    return values.uniform_(generator=generator)


def bernoulli_(
    values: Tensor, p: float = 0.5, *, generator: torch.Generator | None = None
) -> Tensor:
    """Fill with draws that are 1 with probability `p`, otherwise 0."""
    if not 0 <= p <= 1:
        return _fall_back("bernoulli_.float", values, p, generator=generator)
    draws = _uniform(values, generator).lt_(p)
    return values if draws is values else values.copy_(draws)


def exponential_(
    values: Tensor, rate: float = 1.0, *, generator: torch.Generator | None = None
) -> Tensor:
    """Fill with draws from the exponential distribution."""
    if not rate > 0 or not values.dtype.is_floating_point:
        return _fall_back("exponential_", values, rate, generator=generator)
    draws = _uniform(values, generator)
    # Never 0: the distribution excludes it, and its logarithm is infinite.
    smallest = torch.finfo(draws.dtype).eps / 2
    draws.neg_().log1p_().neg_().clamp_min_(smallest).div_(rate)
    return values if draws is values else values.copy_(draws)


OTHERS: dict[str, Kernel] = {
    **FUNCTIONS,
    **_kernels(
        _power,
        "pow.Tensor_Scalar",
        "pow.Tensor_Scalar_out",
        "pow_.Scalar",
        fits=torch.can_cast,
    ),
    "bernoulli_.float": bernoulli_,
    "exponential_": exponential_,
}
