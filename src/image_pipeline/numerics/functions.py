"""Elementwise functions that are rounded the same on every processor.

- PyTorch takes some from MKL's vector library, whose rounding depends on the processor even where
  it is held to `COMPATIBLE` (roots and arc functions often, logarithms once in a hundred
  thousand). The square root is NumPy's: correctly rounded, as IEEE 754 requires of the
  processor's own instruction. The others are composed of PyTorch's own functions and are accurate
  to a few units in the last place.
- PyTorch computes the last few values of a tensor, and tensors that have gaps in memory, one by one
  with the C library's functions, and the others in vectors, which are longer on some processors.
  Here every value is computed in a vector: tensors are copied to memory that is filled up.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from image_pipeline.numerics.onnx_operators import OWN_DOMAIN, compute
from image_pipeline.numerics.registration import (
    DOUBLE,
    FLOAT,
    HALVES,
    Kernel,
    fall_back,
    variants,
)

VECTORS = 32  # a multiple of the values that PyTorch computes at once, on every processor

_E = math.e
_E_MISSING = 5.317e-17  # (e - _E) / e: relative rounding error of the double above


def _filled_up(x: Tensor, like: Tensor) -> Tensor:
    """Return the values of `x`, in the order of `like` in memory, and zeros up to whole vectors."""
    size = like.numel()
    x = x.expand(like.shape)
    if size % VECTORS == 0 and x.stride() == like.stride():
        return x.detach().as_strided((size,), (1,))
    flat = x.new_empty(size + -size % VECTORS)
    flat[size:] = 0
    flat[:size].as_strided(like.shape, like.stride()).copy_(x.detach())
    return flat


def in_vectors(compute: Callable[..., Tensor], x: Tensor, *others: Any) -> Tensor:
    """Compute an elementwise function in whole vectors.

    Args:
        compute: takes 1-D tensors, and numbers.
        x: any shape.
        others: tensors that are broadcast to the shape of `x`, and numbers.
    """
    like = torch.empty_like(x)  # without gaps in memory
    flat = [_filled_up(each, like) if isinstance(each, Tensor) else each for each in (x, *others)]
    return compute(*flat)[: x.numel()].as_strided(like.shape, like.stride())


def _elementwise(compute: Kernel, values: Tensor, whole: bool = True) -> Tensor | None:
    """Compute a function of floats, or of integers as default floats; in whole vectors if asked."""
    dtype = values.dtype
    if not dtype.is_floating_point:
        if dtype.is_complex:
            return None
        dtype = torch.get_default_dtype()
    wide = values.detach().to(FLOAT if dtype in HALVES else dtype)
    result: Tensor = in_vectors(compute, wide) if whole else compute(wide)
    return result.to(dtype)


def _function(name: str, compute: Kernel) -> dict[str, Kernel]:
    """Return the kernels of `name`, which `compute` evaluates for float32 and float64."""
    names = name, f"{name}.out", f"{name}_"
    return variants(partial(_elementwise, compute), *names, fits=torch.can_cast)


def _in_double(compute: Kernel) -> Kernel:
    """Return `compute` in float64, rounded back, for what would lose too much in float32."""
    return lambda values: compute(values.double()).to(values.dtype)


def _sqrt(x: Tensor) -> Tensor:
    root = torch.empty_like(x)
    np.sqrt(x.numpy(), out=root.numpy())
    return root


def _exp(x: Tensor) -> Tensor:
    if x.dtype is FLOAT:
        wide: Tensor = fall_back("exp2", x.double().mul_(1 / math.log(2)))
        return wide.to(FLOAT)
    power: Tensor = fall_back("pow.Tensor_Tensor", torch.tensor(_E, dtype=x.dtype), x)
    return x.clamp(-1000, 1000).mul_(_E_MISSING).mul_(power).add_(power)


def _tanh(x: Tensor) -> Tensor:
    shifted = torch.expm1(x.abs().mul_(-2))  # exp(-2 |x|) - 1
    return shifted.neg().div_(shifted.add(2)).copysign_(x)


def _log(x: Tensor) -> Tensor:
    result: Tensor = fall_back("xlogy.Tensor", torch.ones((), dtype=x.dtype), x)
    return result


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
    if x.dtype is FLOAT:
        return torch.from_numpy(compute("Erf", x.numpy()))
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


def _square_root(values: Tensor) -> Tensor | None:
    return _elementwise(_sqrt, values, whole=False)


# Each composed of functions that PyTorch does not take from MKL.
FUNCTIONS = {
    **variants(_square_root, "sqrt", "sqrt.out", "sqrt_", fits=torch.can_cast),
    **_function("exp", _exp),
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
    **_function("erf", _erf),
    **_function("erfc", _in_double(_erfc)),
    **_function("erfinv", _in_double(_erfinv)),
}


def exp(x: Tensor) -> Tensor:
    """Return e to the power of each value, of a float32 or float64 tensor."""
    return in_vectors(_exp, x)


def log(x: Tensor) -> Tensor:
    """Return natural logarithms of a float32 or float64 tensor."""
    return in_vectors(_log, x)


def sqrt(x: Tensor) -> Tensor:
    """Return square roots of a float32 or float64 tensor."""
    return _sqrt(x)


# --- PyTorch's own, in whole vectors ---


def _own(name: str, values: Any, *others: Any, **named: Any) -> Tensor | None:
    """Compute PyTorch's own function, the C library's part of it excepted."""
    tensors = [x for x in (values, *others) if isinstance(x, Tensor)]
    dtype = tensors[0].dtype
    if dtype not in (FLOAT, DOUBLE) or any(x.dtype is not dtype for x in tensors):
        return None
    if isinstance(values, Tensor) and all(x.shape == values.shape for x in tensors):
        return in_vectors(lambda *flat: fall_back(name, *flat, **named), values, *others)
    like = tensors[0].new_empty(torch.broadcast_shapes(*(x.shape for x in tensors)))
    return in_vectors(lambda _, *flat: fall_back(name, *flat, **named), like, values, *others)


def _pair(compute: Kernel) -> Kernel:
    """Return a kernel of two tensors that also takes a number, as PyTorch passes it on."""

    def with_tensors(first: Any, second: Any, **named: Any) -> Any:
        other = first if isinstance(first, Tensor) else second
        dtype = other.dtype if other.dtype.is_floating_point else torch.get_default_dtype()
        pair = (
            x if isinstance(x, Tensor) else torch.tensor(x, dtype=dtype) for x in (first, second)
        )
        return compute(*pair, **named)

    return with_tensors


def _power(values: Tensor, exponent: Any) -> Tensor | None:
    """Return powers; the square root for an exponent of 0.5."""
    if exponent == 0.5:
        return _square_root(values)
    return _own("pow.Tensor_Scalar", values, exponent)


def _vectorised(name: str, *others: str) -> dict[str, Kernel]:
    return variants(partial(_own, name), name, *others, fits=torch.can_cast)


_PAIRS = {
    **_vectorised("atan2", "atan2.out", "atan2_"),
    **_vectorised("hypot", "hypot.out", "hypot_"),
    **_vectorised("logaddexp", "logaddexp.out"),
    **_vectorised("logaddexp2", "logaddexp2.out"),
    **_vectorised("pow.Tensor_Tensor", "pow.Tensor_Tensor_out", "pow_.Tensor"),
    **_vectorised("xlogy.Tensor", "xlogy.OutTensor", "xlogy_.Tensor"),
}
OWN = {
    **{name: _pair(kernel) for name, kernel in _PAIRS.items()},
    **_vectorised("sigmoid", "sigmoid.out", "sigmoid_"),
    **_vectorised("silu", "silu.out", "silu_"),
    **_vectorised("softplus", "softplus.out"),
    **_vectorised("mish", "mish.out", "mish_"),
    **_vectorised("elu", "elu.out", "elu_"),
    **_vectorised("expm1", "expm1.out", "expm1_"),
    **_vectorised("exp2", "exp2.out", "exp2_"),
    **_vectorised("log1p", "log1p.out", "log1p_"),
    **_vectorised("sinh", "sinh.out", "sinh_"),
    **_vectorised("cosh", "cosh.out", "cosh_"),
    **_vectorised("asinh", "asinh.out", "asinh_"),
    **_vectorised("acosh", "acosh.out", "acosh_"),
    **_vectorised("atanh", "atanh.out", "atanh_"),
    **_vectorised("silu_backward", "silu_backward.grad_input"),
    **_vectorised("softplus_backward", "softplus_backward.grad_input"),
    **_vectorised("mish_backward"),
    **_vectorised("elu_backward", "elu_backward.grad_input"),
    **_vectorised("hardtanh_backward", "hardtanh_backward.grad_input"),
    **_vectorised("hardshrink_backward", "hardshrink_backward.grad_input"),
    **_vectorised("softshrink_backward", "softshrink_backward.grad_input"),
}
# --- Those of ONNX Runtime: one pass, and the same on x86-64 and ARM ---


def _gelu(x: Tensor, *, approximate: str = "none") -> Tensor | None:
    """Return `x` times the normal distribution at `x` (Hendrycks and Gimpel, 2016)."""
    if x.dtype is not FLOAT or approximate != "none":
        return _own("gelu", x, approximate=approximate)
    like = torch.empty_like(x)
    flat = _filled_up(x, like).numpy()
    result = torch.from_numpy(compute("Gelu", flat, domain=OWN_DOMAIN))
    return result[: x.numel()].as_strided(like.shape, like.stride())


def _gelu_backward(gradient: Tensor, x: Tensor, *, approximate: str = "none") -> Tensor | None:
    if {gradient.dtype, x.dtype} != {FLOAT} or approximate != "none":
        return _own("gelu_backward", gradient, x, approximate=approximate)

    def slope(x: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient times the normal distribution and `x` times its density."""
        below = torch.from_numpy(compute("Erf", (x * math.sqrt(0.5)).numpy())).add_(1).mul_(0.5)
        powers: Tensor = fall_back("exp2", (x * x).mul_(-0.5 / math.log(2)))
        return powers.mul_(x).mul_(1 / math.sqrt(2 * math.pi)).add_(below).mul_(gradient)

    return in_vectors(slope, x, gradient)


KERNELS: dict[str, Kernel] = {
    **FUNCTIONS,
    **OWN,
    **variants(_gelu, "gelu", "gelu.out", "gelu_"),
    **variants(_gelu_backward, "gelu_backward", "gelu_backward.grad_input"),
    **variants(
        _power,
        "pow.Tensor_Scalar",
        "pow.Tensor_Scalar_out",
        "pow_.Scalar",
        fits=torch.can_cast,
    ),
}
