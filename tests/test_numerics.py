"""The pin, mostly in processes of their own: it must come before numpy and torch are imported."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from image_pipeline import numerics
from project import require

WARNING = "WARNING: numerics: portable could not take effect ("
UNPINNED = {
    key: value for key, value in os.environ.items() if key not in numerics.PINNED_ENVIRONMENT
}
FACTS = """
import os, threadpoolctl, torch
print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())
print([(lib["architecture"], lib["num_threads"]) for lib in threadpoolctl.threadpool_info()
       if lib["internal_api"] == "openblas"])
print(os.environ["MKL_CBWR"], torch.are_deterministic_algorithms_enabled())
"""


def run_python(
    script: str, env: Mapping[str, str] | None = None, prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*prefix, sys.executable, "-W", "error", "-c", script],
        env={**UNPINNED, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done


def pin(numerics: str = "portable", threads: int = 2) -> str:
    return f"from image_pipeline.numerics import pin; pin({numerics!r}, {threads})\n"


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_portable_fixes_kernels_and_threads(threads: int) -> None:
    require(platform.machine() == "x86_64", "an x86-64 processor")
    done = run_python(pin(threads=threads) + FACTS)
    assert done.stdout.splitlines() == ["AVX2 1", f"[('Haswell', {threads})]", "COMPATIBLE True"]
    assert done.stderr == ""


def test_portable_overrules_the_users_own_choice() -> None:
    env = {
        "OPENBLAS_CORETYPE": "Prescott",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "SSE4_2",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "OMP_THREAD_LIMIT": "1",
    }
    done = run_python(pin(threads=2) + FACTS, env)
    assert done.stdout.splitlines() == ["AVX2 1", "[('Haswell', 2)]", "COMPATIBLE True"]
    assert done.stderr == ""


def test_scipys_own_openblas_gets_the_same_kernels() -> None:
    done = run_python(pin(threads=2) + "import scipy.linalg" + FACTS)
    assert done.stdout.splitlines()[1].count("'Haswell'") == 2


def test_fast_leaves_kernels_alone() -> None:
    script = """
import os, torch
names = ("OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY", "MKL_CBWR")
print([name for name in names if name in os.environ])
print(torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
"""
    done = run_python(pin("fast", 3) + script)
    assert done.stdout.splitlines() == ["[]", "3 False"]
    assert done.stderr == ""


def test_a_second_pin_of_one_process_is_quiet() -> None:
    assert run_python(pin() + pin(threads=1) + FACTS).stderr == ""


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_a_library_imported_too_early_is_named(name: str) -> None:
    done = run_python(f"import {name}\n" + pin())
    assert done.stderr.startswith(WARNING)
    assert f"{name} was imported before the pin" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_processor_without_avx2(tmp_path: Path) -> None:
    """It computes with what it has: the kernels of the pin would end the process."""
    require(shutil.which("qemu-x86_64"), "qemu-x86_64")
    # The emulator shows its host's file, whatever it emulates.
    facts = tmp_path / "cpuinfo"
    facts.write_text("processor\t: 0\nflags\t\t: fpu sse sse2 ssse3 sse4_1 sse4_2 popcnt\n")
    script = f"""
from pathlib import Path
from image_pipeline import numerics
numerics.CPU_FACTS = Path({str(facts)!r})
numerics.pin("portable", 2)
import torch
print(torch.mm(torch.eye(2), torch.ones(2, 2)).tolist())
"""
    done = run_python(script, prefix=("qemu-x86_64", "-cpu", "Nehalem"))
    assert done.stdout == "[[1.0, 1.0], [1.0, 1.0]]\n"
    [line] = [line for line in done.stderr.splitlines() if "TCG doesn't support" not in line]
    assert line.startswith(WARNING)
    assert "torch computes with DEFAULT, not AVX2" in line
    assert "OpenBLAS's kernels are Nehalem, not Haswell" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx avx2 fma\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx avx2_of_another_name fma\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd\n", True),  # an ARM processor's; told elsewhere
        (None, True),
    ],
)
def test_avx2_is_read_from_the_systems_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, expected: bool
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(numerics, "CPU_FACTS", tmp_path / "cpuinfo")
    assert numerics._has_avx2() is expected


OPENBLAS = {
    "internal_api": "openblas",
    "filepath": "/site-packages/numpy.libs/libscipy_openblas64_.so",
    "architecture": "Haswell",
    "num_threads": 2,
}
SCIPYS = {**OPENBLAS, "filepath": "/site-packages/scipy.libs/libscipy_openblas.so"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return the facts of a machine on which the pin takes effect, for a test to change."""
    import numpy as np
    import threadpoolctl
    import torch

    facts = SimpleNamespace(
        machine="x86_64",
        system="Linux",
        capability="AVX2",
        libraries=[OPENBLAS],
        name="scipy-openblas",
    )
    monkeypatch.setattr(platform, "machine", lambda: facts.machine)
    monkeypatch.setattr(platform, "system", lambda: facts.system)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: facts.capability)
    monkeypatch.setattr(threadpoolctl, "threadpool_info", lambda: facts.libraries)
    config = {"Build Dependencies": {"blas": facts.__dict__}}
    monkeypatch.setattr(np.__config__, "CONFIG", config)
    return facts


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({}, []),
        ({"machine": "AMD64"}, []),
        ({"machine": "aarch64"}, ["the processor is aarch64, not x86-64"]),
        ({"system": "Windows"}, ["the system is Windows, not Linux"]),
        ({"capability": "AVX512"}, ["torch computes with AVX512, not AVX2"]),
        ({"capability": "DEFAULT"}, ["torch computes with DEFAULT, not AVX2"]),
        ({"libraries": []}, ["NumPy's matrix products do not come from OpenBLAS"]),
        # SciPy's copy says nothing about what NumPy computes with.
        (
            {"name": "mkl-sdl", "libraries": [SCIPYS]},
            ["NumPy's matrix products do not come from OpenBLAS"],
        ),
        ({"libraries": [{**SCIPYS, "architecture": "Zen"}, OPENBLAS]}, []),
        (
            {"libraries": [SCIPYS, {**OPENBLAS, "architecture": "SkylakeX"}]},
            ["OpenBLAS's kernels are SkylakeX, not Haswell"],
        ),
        # One that was built without threads, say.
        ({"libraries": [{**OPENBLAS, "num_threads": 1}]}, ["OpenBLAS has 1 threads, not 2"]),
    ],
)
def test_what_stands_between_a_machine_and_portable_bits(
    machine: SimpleNamespace, change: dict[str, Any], reasons: list[str]
) -> None:
    machine.__dict__.update(change)
    assert numerics.why_not_portable(2, []) == reasons


def test_several_reasons_are_all_told(machine: SimpleNamespace) -> None:
    machine.capability = "AVX512"
    assert numerics.why_not_portable(2, ["numpy"]) == [
        "numpy was imported before the pin",
        "torch computes with AVX512, not AVX2",
    ]


# Each case leaves `torch` values that must be numpy's to the bit, or raises.
PRODUCTS = """
import numpy as np, torch
from torch.nn import functional

rng = np.random.default_rng(0)

def random(*shape, dtype=np.float32):
    return torch.from_numpy(rng.standard_normal(shape).astype(dtype))

def same(tensor, array):
    assert tensor.dtype == torch.from_numpy(np.asarray(array)).dtype
    assert tensor.detach().numpy().tobytes() == np.ascontiguousarray(array).tobytes()

a, b, bias = random(64, 784), random(784, 120), random(120)
A, B, C = a.numpy(), b.numpy(), bias.numpy()

same(a @ b, A @ B)
same(torch.mm(a, b), A @ B)
same(torch.mm(b.t(), a.t()), B.T @ A.T)  # transposed views
strided = random(784, 18)[::2, ::2]  # [392, 9], neither rows nor columns lie together
same(torch.mm(a[:, ::2], strided), A[:, ::2] @ strided.numpy())
same(torch.mm(a[:1], b), A[:1] @ B)  # one row
same(torch.mm(a, b[:, :1]), A @ B[:, :1])  # one column
same(torch.mm(a.double(), b.double()), A.astype(np.float64) @ B.astype(np.float64))
same(torch.mm(a[:0], b), np.empty((0, 120), np.float32))  # no row
same(torch.mm(a[:, :0], b[:0]), np.zeros((64, 120), np.float32))  # nothing to add up
same(torch.mm(bias.expand(3, 120), b.t()), np.broadcast_to(C, (3, 120)) @ B.T)

same(torch.addmm(bias, a, b), A @ B + C)
same(torch.addmm(bias, a, b, beta=0.5, alpha=2), C * np.float32(0.5) + (A @ B) * np.float32(2))
same(torch.addmm(bias, a, b, alpha=3), C + (A @ B) * np.float32(3))
same(torch.addmm(torch.tensor(7.0), a[:1], b), A[:1] @ B + np.float32(7))
same(torch.addmm(torch.full((120,), torch.nan), a, b, beta=0), A @ B)  # as torch has it: not read

# Forward and backward through a dense layer, by hand: dW = dY^T X, db = sum of dY, dX = dY W.
layer = torch.nn.Linear(784, 120)
x, up = random(64, 784).requires_grad_(), random(64, 120)
y = layer(x)
y.backward(up)
W, X, U = layer.weight.detach().numpy(), x.detach().numpy(), up.numpy()
same(y, X @ W.T + layer.bias.detach().numpy())
same(x.grad, U @ W)
same(layer.weight.grad, U.T @ X)
assert torch.allclose(layer.bias.grad, up.sum(0), rtol=1e-5)
print("done")
"""


def test_matrix_products_are_numpys_forward_and_backward() -> None:
    assert run_python(pin(threads=2) + PRODUCTS).stdout == "done\n"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "complex64"])
def test_other_types_are_multiplied_too(dtype: str) -> None:
    script = f"""
import torch
left = torch.tensor([[1., 2.], [3., 4.]], dtype=torch.{dtype})
right = torch.tensor([[5., 6.], [7., 8.]], dtype=torch.{dtype})
print(torch.mm(left, right).real.tolist(), torch.addmm(left, left, right).real.tolist())
"""
    done = run_python(pin() + script)
    assert done.stdout == "[[19.0, 22.0], [43.0, 50.0]] [[20.0, 24.0], [46.0, 54.0]]\n"


def test_facts_name_what_a_checkpoint_depends_on() -> None:
    done = run_python(pin() + "from image_pipeline.numerics import facts; print(sorted(facts()))")
    assert done.stdout == "['kernels', 'machine', 'numpy', 'scipy', 'torch']\n"
