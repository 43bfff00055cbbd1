"""Matrix products whose sums are added in one order on every processor.

An element of a product is a sum over `k`. It is computed here in blocks of 128 terms: a block is a
chain of fused multiply-adds that begins with 0, and the blocks are added in order. Two libraries
compute exactly that, with vector instructions of any width:

- on x86-64 MLAS, the matrix library of ONNX Runtime, where the product has more than 64 columns
  or at most 128 terms; a narrow product is computed as the transpose of a wide one. It takes 0.6
  of the time of OpenBLAS's kernels for AVX2 where there is AVX-512;
- on ARM OpenBLAS, with its kernels for any ARMv8 processor, where a product has at most 352 terms.

Neither does so for a single row or column, which is therefore doubled.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from image_pipeline.numerics.onnx_operators import OWN_DOMAIN, compute
from image_pipeline.numerics.processor import ON_ARM
from image_pipeline.numerics.registration import (
    COMPLEX,
    DOUBLE,
    FLOAT,
    HALVES,
    Kernel,
    array_of,
    variants,
)

BLOCK = 128
WIDE = 64  # columns: with fewer MLAS takes longer blocks

Product = Callable[[np.ndarray, np.ndarray], np.ndarray]


def multiply(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the matrix products of `x` and `y`.

    Args:
        x: float32 or float64 `[..., m, k]`.
        y: same dtype `[..., k, n]`; one of the two may have no batch dimensions.

    Returns:
        Same dtype, contiguous `[..., m, n]`.
    """
    (*_, rows, terms), columns = x.shape, y.shape[-1]
    if not (x.size and y.size):
        empty: np.ndarray = np.matmul(x, y)
        return empty
    if min(rows, columns) == 1:
        x = np.repeat(x, 2, axis=-2) if rows == 1 else x
        y = np.repeat(y, 2, axis=-1) if columns == 1 else y
        return np.ascontiguousarray(multiply(x, y)[..., :rows, :columns])
    if ON_ARM:
        return _in_blocks(_multiply_by_openblas, x, y)
    if terms <= BLOCK or columns > WIDE:
        return _multiply_by_mlas(x, y)
    if rows > WIDE:
        turned = _multiply_by_mlas(y.swapaxes(-1, -2), x.swapaxes(-1, -2))
        return np.ascontiguousarray(turned.swapaxes(-1, -2))
    return _in_blocks(_multiply_by_mlas, x, y)


def _in_blocks(product: Product, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Multiply blocks of 128 terms, all at once, and add the products in order."""
    whole = x.shape[-1] // BLOCK * BLOCK
    if x.shape[-1] <= BLOCK:
        return product(x, y)
    columns = x[..., :whole].reshape(*x.shape[:-1], -1, BLOCK).swapaxes(-2, -3)
    rows = y[..., :whole, :].reshape(*y.shape[:-2], -1, BLOCK, y.shape[-1])
    total: np.ndarray = np.add.reduce(product(columns, rows), axis=-3)
    if whole < x.shape[-1]:
        total += product(x[..., whole:], y[..., whole:, :])
    return total


def _multiply_by_openblas(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    result: np.ndarray = np.matmul(_blas_layout(x), _blas_layout(y))
    return result


def _blas_layout(array: np.ndarray) -> np.ndarray:
    """Return the array in a layout that OpenBLAS accepts: for others NumPy uses a loop."""
    (row, column), (rows, columns), size = array.strides[-2:], array.shape[-2:], array.itemsize
    if (column == size and row >= size * columns) or (row == size and column >= size * rows):
        return array
    return np.ascontiguousarray(array)


def _multiply_by_mlas(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, x_turned = _stored(x)
    y, y_turned = _stored(y)
    turned = {"transA": int(x_turned), "transB": int(y_turned)}
    return compute("FusedMatMul", x, y, domain=OWN_DOMAIN, **turned)


def _stored(array: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return the matrices as they lie in memory, and whether they are transposed there."""
    if array.flags.c_contiguous:
        return array, False
    turned = array.swapaxes(-1, -2)
    if turned.flags.c_contiguous:
        return turned, True
    return np.ascontiguousarray(array), False


def _products(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the products of two arrays of matrices, real or complex."""
    if not np.iscomplexobj(x):
        return multiply(x, y)
    real = multiply(x.real, y.real) - multiply(x.imag, y.imag)
    imaginary = multiply(x.real, y.imag) + multiply(x.imag, y.real)
    out = np.empty(real.shape, x.dtype)
    out.real, out.imag = real, imaginary
    return out


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
    if dtype is not b.dtype or dtype not in (FLOAT, DOUBLE, *COMPLEX, *HALVES):
        return None
    x, y = array_of(a), array_of(b)
    if not x.ndim == y.ndim == rank or x.shape[-1] != y.shape[-2] or x.shape[:-2] != y.shape[:-2]:
        return None
    total = _products(x, y)
    if alpha != 1:
        total *= alpha
    if added is not None:
        if dtype is not added.dtype:
            return None
        try:
            if beta == 1:
                total += array_of(added)
            elif beta != 0:
                total += array_of(added) * beta
            else:
                torch.broadcast_to(added, total.shape)
        except (ValueError, RuntimeError):  # it does not broadcast
            return None
    return torch.from_numpy(total).to(dtype)


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


# `mv`, `addbmm` and the other products call these.
KERNELS: dict[str, Kernel] = {
    **variants(partial(_addmm, 2, None), "mm", "mm.out"),
    **variants(partial(_addmm, 3, None), "bmm", "bmm.out"),
    **variants(partial(_addmm, 2), "addmm", "addmm.out", "addmm_"),
    **variants(partial(_addmm, 3), "baddbmm", "baddbmm.out", "baddbmm_"),
    **variants(_addmv, "addmv", "addmv.out", "addmv_"),
    **variants(_dot, "dot"),
    **variants(lambda a, b: _dot(a.conj(), b), "vdot"),
}
