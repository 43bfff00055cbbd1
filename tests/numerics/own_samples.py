"""Each kernel against PyTorch's own, on PyTorch's samples; ARM's Python has no pytest for it.

Values, gradients, results in place and in `out`, and errors, in every dtype.
"""

import contextlib
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from image_pipeline.numerics import kernels, registration
from image_pipeline.numerics.processor import ON_ARM

# What PyTorch has samples of under other names than that of the kernel, which they call.
CALLERS = {
    *("addbmm", "mv", "log_softmax", "softmax", "mean", "logsumexp", "linalg.vector_norm"),
    *("nn.functional.batch_norm", "nn.functional.cross_entropy", "nn.functional.gelu"),
    *(f"nn.functional.{kind}{dims}d" for kind in ("conv", "conv_transpose") for dims in (1, 2, 3)),
    *("nn.functional.group_norm", "nn.functional.instance_norm", "nn.functional.layer_norm"),
    *("nn.functional.linear", "nn.functional.logsigmoid", "nn.functional.mish"),
    *("nn.functional.scaled_dot_product_attention", "nn.functional.silu"),
    *("nn.functional.softplus",),
}
REPLACED = {name.split(".")[0].removesuffix("_") for name in kernels.ALL}
# Which draw other numbers than PyTorch's; whose gradient PyTorch rounds by 1e-4 where the values of
# a row are almost alike (`layer_norm` is compared in float64); whose gradient at NaN is another.
APART = {"exponential", "normal", "native_layer_norm", "nn.functional.elu"}
EXACT = {torch.float64, torch.complex128}  # what PyTorch itself computes well enough to compare
# PyTorch's float32 on ARM is up to 107 units in the last place off, this project's half a unit.
INEXACT_ON_ARM = {"erfinv"}
# Of sums of up to 50 products, as `op_db` has them for `addbmm` and for `baddbmm`.
TOLERANCES: dict[torch.dtype, Any] = {
    torch.float32: {"rtol": 1.3e-5, "atol": 1.3e-5},
    torch.complex64: {"rtol": 4e-6, "atol": 4e-5},
}


@contextlib.contextmanager
def pytorchs_kernels() -> Iterator[None]:
    registration._library = None  # this unregisters ours
    registration._replaced.clear()
    try:
        yield
    finally:
        kernels.install()


def names() -> list[str]:
    """Return the names of the operations whose samples reach a kernel."""
    from torch.testing._internal.common_methods_invocations import op_db

    return sorted(
        {op.name for op in op_db if {op.name, op.aten_name} & (REPLACED | CALLERS)} - APART
    )


def compare(name: str) -> int:
    """Compare an operation with PyTorch's own; return how many results there were.

    Raises:
        AssertionError: a result differs by more than rounding.
    """
    from numerics import op_samples  # takes seconds

    rounded = name in kernels.PRODUCTS or name in CALLERS or name == "pow"  # in vectors or not
    exact = name in CALLERS | {"_softmax_backward_data"} or (ON_ARM and name in INEXACT_ON_ARM)
    ops = [op for op in op_samples.operations() if name in (op.name, op.aten_name)]
    assert ops
    count = 0
    for op in ops:
        dtypes = op.supported_dtypes("cpu")
        for dtype in dtypes & EXACT if exact else dtypes:
            gradients = dtype in op.supported_backward_dtypes("cpu")
            computed = compute(op, dtype, gradients)
            with pytorchs_kernels():
                expected = compute(op, dtype, gradients)
            for ours, theirs in zip(computed, expected, strict=True):
                if isinstance(theirs, str):
                    assert ours == theirs
                else:
                    tolerance = TOLERANCES.get(dtype, {}) if rounded else {}
                    torch.testing.assert_close(ours, theirs, equal_nan=True, **tolerance)
            count += len(computed)
    return count


def compute(op: Any, dtype: torch.dtype, gradients: bool) -> list[Any]:
    """Compute the same samples each time: some operations write to their inputs."""
    from numerics import op_samples

    torch.manual_seed(0)
    samples = [*op.sample_inputs_func(op, "cpu", dtype, gradients)]
    samples += [sample.noncontiguous() for sample in samples]
    if dtype is not torch.bool:
        samples += op_samples.wide(op, dtype, gradients)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        computed = [
            op_samples.compute(op, sample, variants=True)
            for sample in samples
            if not sample.kwargs.get("dropout_p")  # which draws
        ]
    return [*itertools.chain(*computed)]
