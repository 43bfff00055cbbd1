"""Kernels of PyTorch's operations on CPUs whose bits are the same on every x86-64 processor.

Registered under PyTorch's own names, so that an ordinary network computes with them and knows
nothing of it. Only leaves are replaced, the operations that autograd knows the derivative of and
that call no other: replacing `linear` or `dropout`, which are made of others, would take their
derivatives away.

- Matrix products are NumPy's: PyTorch takes them from MKL, which has no setting that is both quick
  and the same on AMD's processors. NumPy's OpenBLAS is pinned (see the package).
- Functions of one number that PyTorch takes from MKL's vector library are computed otherwise: even
  held to `COMPATIBLE`, it rounds some as the processor likes (roots and arc functions often,
  logarithms once in a hundred thousand). The square root is NumPy's: correctly rounded, as IEEE 754
  demands of the processor's own instruction. The others are made of functions that PyTorch brings
  along, within a few units of the last place.
- Bernoulli's and exponential draws are made of uniform ones. PyTorch's source takes them from MKL
  on Intel's processors, where it was built so, and from its own generator on others
  (DistributionKernels.cpp): other numbers from one seed.

What these do not compute (integers, complex numbers, factors that do not fit) is left to PyTorch's
own kernel, which computes it or refuses it in its own words.
"""

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

Kernel = Callable[..., Tensor]

_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_FLOAT, _DOUBLE = torch.float32, torch.float64
_HALVES = (torch.float16, torch.bfloat16)  # computed in float32: NumPy has no quick product of them

_library: torch.library.Library | None = None  # what it registers lasts as long as it lives
_torchs: dict[str, Callable[..., Any]] = {}  # what is replaced


def install(*, products_only: bool = False) -> None:
    """Register the kernels for the rest of this process; once is enough.

    Args:
        products_only: leave all but the matrix products to PyTorch.
    """
    global _library
    _library = _library or torch.library.Library("aten", "IMPL")
    for name, kernel in (PRODUCTS if products_only else PRODUCTS | OTHERS).items():
        if name not in _torchs:
            _torchs[name] = torch.library.get_kernel(f"aten::{name}", "CPU").call_boxed
            _library.impl(name, kernel, "CPU")


def _torchs_own(name: str, *arguments: Any, **named: Any) -> Tensor:
    """Compute with the kernel that was replaced."""
    result: Tensor = _torchs[name](_CPU, *arguments, **named)
    return result


# --- Matrix products ---


def _array(tensor: Tensor) -> np.ndarray:
    """Return a view of a tensor of floats; kernels are given those that require a gradient, too."""
    array: np.ndarray = (tensor.float() if tensor.dtype in _HALVES else tensor).detach().numpy()
    return array


def _multipliable(array: np.ndarray) -> np.ndarray:
    """Return an array that OpenBLAS takes as it is: NumPy multiplies others one by one."""
    (row, column), (rows, columns), size = array.strides[-2:], array.shape[-2:], array.itemsize
    if (column == size and row >= size * columns) or (row == size and column >= size * rows):
        return array
    return np.ascontiguousarray(array)


# Infinity and NaN are results like others: PyTorch does not warn of them.
_quietly = np.errstate(all="ignore")


def _sum_of_product(
    rank: int, a: Tensor, b: Tensor, added: Tensor | None, beta: Any, alpha: Any
) -> Tensor | None:
    """Return `beta * added + alpha * a @ b` of tensors of floats; None where NumPy shall not.

    Args:
        rank: of both factors; 2 for matrices, 3 for batches of them.
        a: float `[..., m, k]`.
        b: of the same type, `[..., k, n]`.
        added: of the same type, of a shape that expands to the result's; not read where beta is 0.
        beta: its factor.
        alpha: the product's factor.
    """
    dtype = a.dtype
    if dtype is not b.dtype:
        return None
    if dtype is _FLOAT or dtype is _DOUBLE:
        x, y = a.detach().numpy(), b.detach().numpy()
    elif dtype in _HALVES:
        x, y = _array(a), _array(b)
    else:
        return None
    if not x.ndim == y.ndim == rank or x.shape[-1] != y.shape[-2] or x.shape[:-2] != y.shape[:-2]:
        return None
    shape = x.shape[:-1] + y.shape[-1:]
    result = torch.empty(shape, dtype=dtype if dtype is _DOUBLE else _FLOAT)
    sum_ = result.numpy()
    if rank == 3 or not x.flags.forc:
        x = _multipliable(x)
    if rank == 3 or not y.flags.forc:
        y = _multipliable(y)
    np.matmul(x, y, out=sum_)
    if alpha != 1:
        sum_ *= alpha
    if added is not None:
        if dtype is not added.dtype:
            return None
        try:
            if beta == 1:
                sum_ += added.detach().numpy() if dtype is _FLOAT else _array(added)
            elif beta != 0:
                sum_ += _array(added) * beta
            else:
                torch.broadcast_to(added, shape)
        except (ValueError, RuntimeError):  # its shape does not expand
            return None
    return result if result.dtype is dtype else result.to(dtype)


def _into(out: Tensor, result: Tensor) -> Tensor:
    """Write a result into the tensor given as `out=`, which takes the result's shape."""
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


def _product(name: str, sum_of_product: Callable[..., Tensor | None]) -> dict[str, Kernel]:
    """Return the kernels of `name`, a product."""

    @_quietly
    def functional(a: Tensor, b: Tensor) -> Tensor:
        result = sum_of_product(a, b, None, 0, 1)
        return _torchs_own(name, a, b) if result is None else result

    @_quietly
    def with_out(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
        result = sum_of_product(a, b, None, 0, 1)
        if result is None or out.dtype is not result.dtype:
            return _torchs_own(f"{name}.out", a, b, out=out)
        return _into(out, result)

    return {name: functional, f"{name}.out": with_out}


def _added_product(name: str, sum_of_product: Callable[..., Tensor | None]) -> dict[str, Kernel]:
    """Return the kernels of `name`, a product that is added to something."""

    @_quietly
    def functional(added: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
        result = sum_of_product(a, b, added, beta, alpha)
        if result is None:
            return _torchs_own(name, added, a, b, beta=beta, alpha=alpha)
        return result

    @_quietly
    def with_out(
        added: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1, out: Tensor
    ) -> Tensor:
        result = sum_of_product(a, b, added, beta, alpha)
        if result is None or out.dtype is not result.dtype:
            return _torchs_own(f"{name}.out", added, a, b, beta=beta, alpha=alpha, out=out)
        return _into(out, result)

    @_quietly
    def in_place(added: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
        result = sum_of_product(a, b, added, beta, alpha)
        if result is None or result.shape != added.shape:
            return _torchs_own(f"{name}_", added, a, b, beta=beta, alpha=alpha)
        return added.copy_(result)

    return {name: functional, f"{name}.out": with_out, f"{name}_": in_place}


_of_matrices = partial(_sum_of_product, 2)
_of_batches = partial(_sum_of_product, 3)


def _of_matrix_and_vector(
    matrix: Tensor, vector: Tensor, added: Tensor, beta: Any, alpha: Any
) -> Tensor | None:
    """Return `_sum_of_product` of a matrix and a vector, which is a matrix of one column."""
    if vector.dim() != 1 or added.dim() > 1:
        return None
    column = vector.unsqueeze(-1)
    result = _sum_of_product(2, matrix, column, added.unsqueeze(-1), beta, alpha)
    return None if result is None else result.squeeze(-1)


def _dot(name: str) -> dict[str, Kernel]:
    """Return the kernel of `name`, a product of two vectors."""

    @_quietly
    def functional(a: Tensor, b: Tensor) -> Tensor:
        result = None
        if a.dim() == b.dim() == 1:
            result = _sum_of_product(2, a.unsqueeze(0), b.unsqueeze(1), None, 0, 1)
        return _torchs_own(name, a, b) if result is None else result.reshape(())

    return {name: functional}


# `mv`, `addbmm` and the other products are made of these.
PRODUCTS = {
    **_product("mm", _of_matrices),
    **_product("bmm", _of_batches),
    **_added_product("addmm", _of_matrices),
    **_added_product("baddbmm", _of_batches),
    **_added_product("addmv", _of_matrix_and_vector),
    **_dot("dot"),
    **_dot("vdot"),
}

# --- Functions of one number ---

_E = math.e
_E_MISSING = 5.317e-17  # (e - _E) / e: what the double above lacks, relatively


def _real_function(compute: Kernel, values: Tensor) -> Tensor | None:
    """Compute a function of floats, of integers as of floats of the default type; else None."""
    dtype = values.dtype
    if not dtype.is_floating_point:
        if dtype.is_complex:
            return None
        dtype = torch.get_default_dtype()
    wide = values.detach().to(_FLOAT if dtype in _HALVES else dtype)
    result: Tensor = compute(wide)
    return result.to(dtype)


def _function(name: str, compute: Kernel) -> dict[str, Kernel]:
    """Return the kernels of `name`, a function that `compute` does of float32 and float64."""

    def functional(values: Tensor) -> Tensor:
        result = _real_function(compute, values)
        return _torchs_own(name, values) if result is None else result

    def with_out(values: Tensor, *, out: Tensor) -> Tensor:
        result = _real_function(compute, values)
        if result is None or not torch.can_cast(result.dtype, out.dtype):
            return _torchs_own(f"{name}.out", values, out=out)
        return _into(out, result)

    def in_place(values: Tensor) -> Tensor:
        result = _real_function(compute, values) if values.dtype.is_floating_point else None
        return _torchs_own(f"{name}_", values) if result is None else values.copy_(result)

    return {name: functional, f"{name}.out": with_out, f"{name}_": in_place}


def _in_double(compute: Kernel) -> Kernel:
    """Return `compute` with float64 in between, for what would lose too much in float32."""
    return lambda values: compute(values.double()).to(values.dtype)


@_quietly
def _sqrt(x: Tensor) -> Tensor:
    root = torch.empty_like(x)
    np.sqrt(x.numpy(), out=root.numpy())
    return root


def _exp(x: Tensor) -> Tensor:
    power = torch.pow(_E, x)
    return power + power * (x.clamp(-1000, 1000) * _E_MISSING)


def _tanh(x: Tensor) -> Tensor:
    less = torch.expm1(x.abs().mul_(-2))  # exp(-2 |x|) - 1
    return less.neg().div_(less.add(2)).copysign_(x)


def _log(x: Tensor) -> Tensor:
    return torch.xlogy(1, x)


def _turned(x: Tensor) -> Tensor:
    """Return cosines and sines, as the real and imaginary parts of complex numbers."""
    return torch.polar(torch.ones_like(x), x)


def _tan(x: Tensor) -> Tensor:
    turned = _turned(x)
    return turned.imag / turned.real


def _other_leg(x: Tensor) -> Tensor:
    """Return the cosine of an angle from its sine, and the other way round."""
    return _sqrt((1 - x) * (1 + x))


def _erf(x: Tensor) -> Tensor:
    return torch.igamma(torch.full_like(x, 0.5), x * x).copysign_(x)


def _erfc(x: Tensor) -> Tensor:
    half, square = torch.full_like(x, 0.5), x * x
    return torch.where(x > 0, torch.igammac(half, square), 1 + torch.igamma(half, square))


def _erfinv(x: Tensor) -> Tensor:
    near_zero = x * (math.sqrt(math.pi) / 2) * (1 + math.pi / 12 * x * x)  # where x + 1 loses it
    inverse = torch.special.ndtri((x + 1) / 2) / math.sqrt(2)
    return torch.where(x.abs() < 1e-3, near_zero, inverse)


# Each from a function that PyTorch does not take from MKL.
FUNCTIONS = {
    **_function("sqrt", _sqrt),
    **_function("exp", _in_double(_exp)),
    **_function("log", _log),
    **_function("log2", _in_double(lambda x: _log(x) / math.log(2))),
    **_function("log10", _in_double(lambda x: _log(x) / math.log(10))),
    **_function("sin", lambda x: _turned(x).imag.contiguous()),
    **_function("cos", lambda x: _turned(x).real.contiguous()),
    **_function("tan", _in_double(_tan)),
    **_function("asin", lambda x: torch.atan2(x, _other_leg(x))),
    **_function("acos", lambda x: torch.atan2(_other_leg(x), x)),
    **_function("atan", lambda x: torch.atan2(x, torch.ones_like(x))),
    **_function("tanh", _tanh),
    **_function("erf", _in_double(_erf)),
    **_function("erfc", _in_double(_erfc)),
    **_function("erfinv", _in_double(_erfinv)),
}


def pow_(values: Tensor, exponent: Any) -> Tensor:
    """Compute a root as such, other powers as PyTorch does, in place."""
    if exponent == 0.5:
        return FUNCTIONS["sqrt_"](values)
    return _torchs_own("pow_.Scalar", values, exponent)


def pow_of_tensor(values: Tensor, exponent: Any) -> Tensor:
    """Compute a root as such, other powers as PyTorch does."""
    if exponent == 0.5:
        return FUNCTIONS["sqrt"](values)
    return _torchs_own("pow.Tensor_Scalar", values, exponent)


def pow_out(values: Tensor, exponent: Any, *, out: Tensor) -> Tensor:
    """Compute a root as such, other powers as PyTorch does, into `out`."""
    if exponent == 0.5:
        return FUNCTIONS["sqrt.out"](values, out=out)
    return _torchs_own("pow.Tensor_Scalar_out", values, exponent, out=out)


# --- Draws ---


def _uniform(values: Tensor, generator: torch.Generator | None) -> Tensor:
    """Fill a tensor of floats with draws from [0, 1), or another one where its type is coarser."""
    if values.dtype is not _FLOAT and values.dtype is not _DOUBLE:
        values = torch.empty_like(values, dtype=_FLOAT)
    return values.uniform_(generator=generator)


def bernoulli_(
    values: Tensor, p: float = 0.5, *, generator: torch.Generator | None = None
) -> Tensor:
    """Fill with ones, drawn with a probability of `p`, and zeros."""
    if not 0 <= p <= 1:
        return _torchs_own("bernoulli_.float", values, p, generator=generator)
    draws = _uniform(values, generator).lt_(p)
    return values if draws is values else values.copy_(draws)


def exponential_(
    values: Tensor, rate: float = 1.0, *, generator: torch.Generator | None = None
) -> Tensor:
    """Fill with draws from the exponential distribution."""
    if not rate > 0 or not values.dtype.is_floating_point:
        return _torchs_own("exponential_", values, rate, generator=generator)
    draws = _uniform(values, generator)
    # Zero is not among the values of the distribution, and its logarithm would be infinite.
    least = torch.finfo(draws.dtype).eps / 2
    draws.neg_().log1p_().neg_().clamp_min_(least).div_(rate)
    return values if draws is values else values.copy_(draws)


OTHERS: dict[str, Kernel] = {
    **FUNCTIONS,
    "pow.Tensor_Scalar": pow_of_tensor,
    "pow.Tensor_Scalar_out": pow_out,
    "pow_.Scalar": pow_,
    "bernoulli_.float": bernoulli_,
    "exponential_": exponential_,
}
