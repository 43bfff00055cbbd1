"""The pin, mostly in new processes: it must precede the imports of numpy and torch."""

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


def pin(numerics: str = "portable") -> str:
    return f"from image_pipeline.numerics import pin; pin({numerics!r})\n"


REPLACED = """
from image_pipeline.numerics import facts, registration
print(*(name in registration.registered() for name in ("mm", "sqrt")))
print(torch.backends.mha.get_fastpath_enabled())
print(sorted(facts()))
"""


def test_portable_fixes_kernels_and_threads() -> None:
    require(platform.machine() == "x86_64", "an x86-64 processor")
    scipy_blas = "import scipy.linalg" + FACTS
    done = run_python(
        pin() + FACTS + scipy_blas + pin() + REPLACED
    )  # the second pin prints nothing
    fixed = ["AVX2 1", "[('Haswell', 1)]", "COMPATIBLE True"]
    *first, speed, blas, rest, replaced, fast_path, names = done.stdout.splitlines()
    assert first == fixed
    assert [speed, rest] == [fixed[0], fixed[2]]
    assert blas.count("'Haswell'") == 2
    assert (replaced, fast_path) == ("True True", "False")
    assert (
        names == "['kernels', 'numpy', 'scipy', 'torch']"
    )  # compared when a checkpoint is resumed
    assert done.stderr == ""


def test_portable_overrides_the_users_environment() -> None:
    env = {
        "OPENBLAS_CORETYPE": "Prescott",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "SSE4_2",
        "OPENBLAS_NUM_THREADS": "4",
        "OMP_NUM_THREADS": "4",
    }
    done = run_python(pin() + FACTS, env)
    assert done.stdout.splitlines() == ["AVX2 1", "[('Haswell', 1)]", "COMPATIBLE True"]
    assert done.stderr == ""


ZEN4 = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 25\nflags\t\t: avx2 avx512f\n"
INTEL = ZEN4.replace("AuthenticAMD", "GenuineIntel")


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (ZEN4, True),
        (ZEN4.replace(" avx512f", ""), False),  # Zen 3
        (ZEN4.replace("25", "26"), False),  # Zen 5
        (INTEL, False),
        (ZEN4 + "\n" + ZEN4.replace("25", "26"), True),
        ("", False),
    ],
)
def test_zen_4_is_recognized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processor: str, expected: bool
) -> None:
    (tmp_path / "cpuinfo").write_text(processor)
    monkeypatch.setattr(numerics, "CPU_INFO", tmp_path / "cpuinfo")
    assert numerics._splits_avx512(numerics._cpu_info()) is expected


@pytest.mark.parametrize(
    ("processor", "environment", "products"),
    [
        (ZEN4, {"OPENBLAS_CORETYPE": "Zen", "ATEN_CPU_CAPABILITY": "avx2"}, True),
        (INTEL, {"OPENBLAS_CORETYPE": "Zen"}, False),
    ],
)
def test_fast_corrects_two_library_choices(
    tmp_path: Path, processor: str, environment: dict[str, str], products: bool
) -> None:
    """Not those the user made; matrix products only on AMD's processors, which MKL neglects."""
    (tmp_path / "cpuinfo").write_text(processor)
    script = f"""
from pathlib import Path
from image_pipeline import numerics
numerics.CPU_INFO = Path({str(tmp_path / "cpuinfo")!r})
numerics.pin("fast")
import os, torch
names = ("OPENBLAS_CORETYPE", "ATEN_CPU_CAPABILITY", "MKL_CBWR")
print({{name: os.environ[name] for name in names if name in os.environ}})
print(torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
"""
    done = run_python(script + REPLACED, {"OPENBLAS_CORETYPE": "Zen"})
    expected = [str(environment), "1 False", f"{products} False", "True"]
    assert done.stdout.splitlines()[:4] == expected
    assert done.stderr == ""


def test_onednn_computes_nothing() -> None:
    script = "import torch; torch.nn.Conv2d(3, 8, 3)(torch.rand(4, 3, 9, 9))"
    pinned, free = (
        run_python(each, {"ONEDNN_VERBOSE": "1"}).stdout for each in (pin() + script, script)
    )
    assert "primitive,exec" in free
    assert "primitive,exec" not in pinned


def test_libraries_imported_too_early_are_named() -> None:
    done = run_python("import numpy, torch\n" + pin())
    assert done.stderr.startswith(WARNING)
    assert "numpy was imported before the pin; torch was imported before the pin" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_processor_without_avx2_runs_unpinned(tmp_path: Path) -> None:
    """The pinned kernels would crash the process."""
    require(shutil.which("qemu-x86_64"), "qemu-x86_64")
    # Emulated processes still read the host's /proc/cpuinfo.
    facts = tmp_path / "cpuinfo"
    facts.write_text("processor\t: 0\nflags\t\t: fpu sse sse2 ssse3 sse4_1 sse4_2 popcnt\n")
    script = f"""
from pathlib import Path
from image_pipeline import numerics
numerics.CPU_INFO = Path({str(facts)!r})
numerics.pin("portable")
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
        ("processor\t: 0\nFeatures\t: fp asimd\n", True),  # ARM: reported by why_not_portable
        (None, True),
    ],
)
def test_avx2_is_read_from_proc_cpuinfo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, expected: bool
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(numerics, "CPU_INFO", tmp_path / "cpuinfo")
    assert numerics.has_avx2() is expected


OPENBLAS = {
    "internal_api": "openblas",
    "filepath": "/site-packages/numpy.libs/libscipy_openblas64_.so",
    "architecture": "Haswell",
    "num_threads": 1,
}
SCIPY_OPENBLAS = {**OPENBLAS, "filepath": "/site-packages/scipy.libs/libscipy_openblas.so"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Fake a machine on which the pin takes effect; tests change what it returns."""
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
        ({"machine": "riscv64"}, ["the processor is riscv64, not x86-64 or ARM"]),
        ({"system": "Windows"}, ["the system is Windows, not Linux"]),
        ({"capability": "AVX512"}, ["torch computes with AVX512, not AVX2"]),
        ({"capability": "DEFAULT"}, ["torch computes with DEFAULT, not AVX2"]),
        ({"libraries": []}, ["NumPy's matrix products do not come from OpenBLAS"]),
        # SciPy's copy says nothing about what NumPy computes with.
        (
            {"name": "mkl-sdl", "libraries": [SCIPY_OPENBLAS]},
            ["NumPy's matrix products do not come from OpenBLAS"],
        ),
        ({"libraries": [{**SCIPY_OPENBLAS, "architecture": "Zen"}, OPENBLAS]}, []),
        (
            {"libraries": [SCIPY_OPENBLAS, {**OPENBLAS, "architecture": "SkylakeX"}]},
            ["OpenBLAS's kernels are SkylakeX, not Haswell"],
        ),
        ({"libraries": [{**OPENBLAS, "num_threads": 2}]}, ["OpenBLAS has 2 threads, not 1"]),
    ],
)
def test_reasons_why_results_are_not_portable(
    machine: SimpleNamespace, change: dict[str, Any], reasons: list[str]
) -> None:
    machine.__dict__.update(change)
    assert numerics.why_not_portable() == reasons


def test_all_reasons_are_listed(machine: SimpleNamespace) -> None:
    machine.capability = "AVX512"
    assert numerics.why_not_portable(["numpy"]) == [
        "numpy was imported before the pin",
        "torch computes with AVX512, not AVX2",
    ]
