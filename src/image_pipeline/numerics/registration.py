"""How kernels are registered with PyTorch, under the names of its own operations."""

import operator
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from image_pipeline.numerics.torch_private import CPU

Kernel = Callable[..., Any]

FLOAT, DOUBLE = torch.float32, torch.float64
COMPLEX = (torch.complex64, torch.complex128)
HALVES = (torch.float16, torch.bfloat16)  # computed in float32: NumPy multiplies them slowly

# Infinity and NaN are ordinary results: PyTorch does not warn of them.
quietly = np.errstate(all="ignore")

_library: torch.library.Library | None = None  # must stay alive: kernels are unregistered with it
_replaced: dict[str, Kernel] = {}  # PyTorch's own kernels


def register(kernels: Mapping[str, Kernel]) -> None:
    """Register kernels for the rest of this process; a name that has one already keeps it."""
    global _library
    _library = _library or torch.library.Library("aten", "IMPL")
    for name, kernel in kernels.items():
        if name not in _replaced:
            _replaced[name] = torch.library.get_kernel(f"aten::{name}", "CPU").call_boxed
            _library.impl(name, quietly(kernel), "CPU")


def registered() -> set[str]:
    """Return the names of the operations that were replaced."""
    return set(_replaced)


def fall_back(name: str, *arguments: Any, **named: Any) -> Any:
    """Call PyTorch's own kernel, which was replaced."""
    return _replaced[name](CPU, *arguments, **named)


def array_of(tensor: Tensor) -> np.ndarray:
    """Return a view of a tensor, which may require a gradient, or a copy if it is not stored so."""
    wide = tensor.float() if tensor.dtype in HALVES else tensor.resolve_conj()
    array: np.ndarray = wide.detach().numpy()
    return array


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


def variants(
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

    def functional(*arguments: Any, **named: Any) -> Any:
        result = compute(*arguments, **named)
        return fall_back(names[0], *arguments, **named) if result is None else result

    def with_out(*arguments: Any, out: Tensor, **named: Any) -> Any:
        result = compute(*arguments, **named)
        if result is None or not fits(result.dtype, out.dtype):
            return fall_back(names[1], *arguments, out=out, **named)
        return _into(out, result)

    def in_place(target: Tensor, *arguments: Any, **named: Any) -> Any:
        result = compute(target, *arguments, **named)
        if result is None or (result.dtype, result.shape) != (target.dtype, target.shape):
            return fall_back(names[2], target, *arguments, **named)
        return target.copy_(result)

    return dict(zip(names, (functional, with_out, in_place), strict=False))
