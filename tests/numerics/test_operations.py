"""`operations.csv` lists what the cases verify.

pipeline/test_processors.py tests that other processors compute the cases to the same bits.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from image_pipeline.numerics import kernels, registration
from image_pipeline.numerics.portability import NOTHING, OPERATIONS, read_verified_ops
from numerics import cases
from project import ROOT


@pytest.fixture(scope="module")
def native() -> list[dict[str, Any]]:
    """Return the lines that the cases print, computed by a pinned process of their own."""
    script = Path(__file__).with_name("cases.py")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_row_is_covered_by_its_evidence(native: list[dict[str, Any]]) -> None:
    seen: dict[str, dict[str, set[str]]] = {}
    for line in native:
        for operation, (types, *_) in line["operations"].items():
            seen.setdefault(line["case"], {}).setdefault(operation, set()).update(types)
    for operation, verified in read_verified_ops().items():
        assert operation in seen[verified.evidence], operation
        assert set(verified.types) <= seen[verified.evidence][operation], operation
        assert bool(verified.types) != (verified.computed_by == NOTHING), operation


def test_the_list_is_what_the_cases_cover(native: list[dict[str, Any]]) -> None:
    on_arm = {name: set(row.on_arm) for name, row in read_verified_ops().items()}
    assert OPERATIONS.read_text(encoding="utf-8") == cases.to_list(native, on_arm)


def test_a_difference_is_found(native: list[dict[str, Any]]) -> None:
    other = json.loads(json.dumps(native))
    other[3]["operations"] = dict(other[3]["operations"])
    operation = next(iter(other[3]["operations"]))
    other[3]["operations"][operation][1] = "another hash"
    assert cases.differences(native, native) == []
    assert cases.differences(native, other) == [
        f"{operation} in the case {native[3]['case']!r} in {native[3]['type']}"
    ]


def flipped(kernel: registration.Kernel) -> registration.Kernel:
    """Return the kernel with the last bit of the first number that it gives flipped."""

    def sabotaged(*arguments: Any, **named: Any) -> Any:
        result = kernel(*arguments, **named)
        written = arguments[0] if result is None else result  # a fused optimizer returns nothing
        for tensor in cases.flat(written):
            if isinstance(tensor, torch.Tensor) and tensor.dtype in INTEGERS and tensor.numel():
                values = tensor.detach()
                first = values[(0,) * values.dim()].reshape(1)
                first.copy_((first.view(INTEGERS[tensor.dtype]) ^ 1).view(tensor.dtype))
                break
        return result

    return sabotaged


@contextlib.contextmanager
def registered(table: Mapping[str, registration.Kernel]) -> Iterator[None]:
    def unregister() -> None:
        registration._library = None
        registration._replaced.clear()

    unregister()
    registration.register(table)
    try:
        yield
    finally:
        unregister()
        kernels.install()


INTEGERS = {torch.float32: torch.int32, torch.float64: torch.int64}
LISTED = read_verified_ops()
# Overloads that nothing reaches, and so no case; they share the function of one that is listed.
UNREACHED = {
    *("_softmax.out", "_log_softmax.out", "elu.out", "gelu_", "mish.out", "silu.out"),
    *(f"{name}_backward.grad_input" for name in ("elu", "gelu", "hardshrink", "hardtanh")),
    *(f"{name}_backward.grad_input" for name in ("silu", "softplus", "softshrink")),
    *(f"_fused_{name}_.tensor_lr" for name in ("adam", "adamw", "sgd")),
}


def operation_of(kernel: str) -> str:
    """Return the name that operations.csv has for a kernel."""
    name = "convolution" if kernel == "_convolution" else kernel
    return f"aten.{name}{'' if '.' in name else '.default'}"


def test_every_kernel_has_a_proof() -> None:
    """A kernel without a case, or one that PyTorch's own is taken for, fails here."""
    proved = {
        name
        for name in kernels.ALL
        if (row := LISTED.get(operation_of(name))) and row.computed_by in {"kernels", "MLAS"}
    }
    assert {*kernels.ALL} - proved == UNREACHED
    assert {name.partition(".")[0].removesuffix("_") for name in UNREACHED} <= {
        name.removesuffix("_") for name in proved
    }


@pytest.mark.parametrize("name", sorted({*kernels.ALL} - UNREACHED))
def test_a_kernel_that_is_off_by_one_bit_is_found(name: str) -> None:
    from numerics import op_samples  # takes seconds

    operation = operation_of(name)
    row = LISTED[operation]
    cases.CASES.update(op_samples.cases())
    type_ = "float32" if "float32" in row.types else row.types[0]
    with registered(kernels.ALL):
        expected = cases.run(row.evidence, type_)["operations"]
    with registered(kernels.ALL | {name: flipped(kernels.ALL[name])}):
        found = cases.run(row.evidence, type_)["operations"]
    assert expected[operation] != found[operation]
