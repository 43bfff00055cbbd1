"""Bit-identical results on every x86-64 and ARM machine: which CPU kernels compute.

The result of a floating-point sum depends on the order of its terms, and the order on the number of
threads and on the kernel that a library picks for the processor. `pin` takes that choice away from
the libraries. It must run before torch and numpy are first imported, so the stages call it first
and import the rest after.

What `portable` sets, and why:

- Operations with sums inside, and functions that are rounded differently from one processor to the
  next, are replaced by kernels that are the same everywhere (see `kernels`).
- What stays PyTorch's own is held to one build: on x86-64 that for AVX2, on ARM that for NEON,
  which every 64-bit one has. So is NumPy's OpenBLAS. MKL's Fourier transforms are held to those
  for any x86-64 processor; ARM has others, so they are portable among x86-64 machines only.
- oneDNN, whose kernels depend on the processor, and fused kernels for attention are disabled.
- Every library gets one thread. More cores are used by more processes, each with its own images
  (see `training`): threads that share a product wait for each other after each one, which on a busy
  machine is ten times slower.

`portability` finds the operations of a step that are not verified to give the same bits.

`fast` lets the libraries choose their kernels: the bits are then specific to the machine. Two
choices are corrected. On AMD's processors, which MKL neglects, matrix products are those of
`portable`. And Zen 4 executes an AVX-512 instruction as two halves (AMD, "Software Optimization
Guide for the AMD Zen4 Microarchitecture"): AVX2 kernels are faster there, by an eighth for the
product of the first layer, by three quarters for the softmax of ten classes.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Sequence
from typing import Any, Literal

from image_pipeline.numerics.processor import ARM, CPU_INFO, ON_ARM, X86

Numerics = Literal["portable", "fast"]

AVX2_KERNELS = {"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx2"}
PINNED_ENVIRONMENT = (
    {"OPENBLAS_CORETYPE": "ARMV8", "ATEN_CPU_CAPABILITY": "default"}
    if ON_ARM
    else {**AVX2_KERNELS, "MKL_CBWR": "COMPATIBLE"}  # of what torch takes from MKL
)
# What the libraries say of themselves then.
CAPABILITY, ARCHITECTURE = ("DEFAULT", "armv8") if ON_ARM else ("AVX2", "Haswell")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from <malloc.h>


def pin(numerics: Numerics) -> None:
    """Fix the kernels, and one thread per library, for the rest of this process.

    Prints one line to standard error if `portable` could not take effect.

    Args:
        numerics: `portable` for the same bits on every x86-64 processor with AVX2 and on every
            64-bit ARM processor, `fast` for what is fastest on this one.
    """
    # A loaded library has already read its variables; pinning a process twice changes nothing.
    pinned = PINNED_ENVIRONMENT.items() <= os.environ.items()
    already = [name for name in ("numpy", "torch") if name in sys.modules and not pinned]
    processor = _cpu_info()
    if numerics == "portable":
        if has_avx2(processor):  # otherwise the AVX2 kernels would kill the process
            os.environ.update(PINNED_ENVIRONMENT)
    elif _splits_avx512(processor):
        for name, value in AVX2_KERNELS.items():
            os.environ.setdefault(name, value)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # otherwise it starts more before the limit below

    import torch
    from threadpoolctl import threadpool_limits

    _keep_freed_memory()
    threadpool_limits(1, user_api="blas")
    torch.set_num_threads(1)
    from image_pipeline.numerics import kernels  # imports both

    if numerics == "fast":
        if processor.get("vendor_id") == "AuthenticAMD":
            kernels.install(products_only=True)
        return
    kernels.install()
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.cuda.enable_flash_sdp(False)  # on CPUs, too: attention by its products
    torch.backends.mkldnn.set_flags(False)
    # Same as use_deterministic_algorithms(True), which imports the compiler, a second per stage.
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if reasons := why_not_portable(already):
        print(
            f"WARNING: numerics: portable could not take effect ({'; '.join(reasons)}): "
            "the results are as good, but not bit-identical to the committed ones.",
            file=sys.stderr,
            flush=True,
        )


def _keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next step instead of returning it to the system.

    Getting it back, page by page, took a tenth of the training time. glibc only:
    https://man7.org/linux/man-pages/man3/mallopt.3.html.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest value it accepts
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def _cpu_info() -> dict[str, str]:
    """Return Linux's facts about the first processor, without loading a library."""
    try:
        text = CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}  # not Linux
    lines = text.partition("\n\n")[0].splitlines()
    return {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }


def has_avx2(processor: dict[str, str] | None = None) -> bool:
    """Return whether the processor (default: this machine's) has AVX2; True if unknown."""
    processor = _cpu_info() if processor is None else processor
    return "flags" not in processor or "avx2" in processor["flags"].split()


def _splits_avx512(processor: dict[str, str]) -> bool:
    """Return whether it is a Zen 4: of AMD's family 25 (Zen 3 and 4), the one with AVX-512."""
    family_25 = processor.get("vendor_id") == "AuthenticAMD" and processor.get("cpu family") == "25"
    return family_25 and "avx512f" in processor.get("flags", "").split()


def why_not_portable(imported_before_pin: Sequence[str] = ()) -> list[str]:
    """Return the reasons why this process's results are not portable; empty if they are.

    Args:
        imported_before_pin: modules that had read the environment before it was set.
    """
    import torch

    reasons = [f"{name} was imported before the pin" for name in imported_before_pin]
    if platform.machine().lower() not in (*ARM, *X86):
        return [*reasons, f"the processor is {platform.machine()}, not x86-64 or ARM"]
    if platform.system() != "Linux":  # the libraries are built with other compilers there
        reasons.append(f"the system is {platform.system()}, not Linux")
    capability = torch.backends.cpu.get_cpu_capability()
    if capability != CAPABILITY:
        reasons.append(f"torch computes with {capability}, not {CAPABILITY}")
    library = _numpy_openblas()
    if library is None:
        reasons.append("NumPy's matrix products do not come from OpenBLAS")
        return reasons
    if library.get("architecture") != ARCHITECTURE:
        reasons.append(f"OpenBLAS's kernels are {library.get('architecture')}, not {ARCHITECTURE}")
    if library["num_threads"] != 1:
        reasons.append(f"OpenBLAS has {library['num_threads']} threads, not 1")
    return reasons


def _numpy_openblas() -> dict[str, Any] | None:
    """Return threadpoolctl's facts about NumPy's own OpenBLAS; SciPy brings another one."""
    import numpy as np
    from threadpoolctl import threadpool_info

    name = str(np.__config__.CONFIG["Build Dependencies"]["blas"]["name"])
    if "openblas" not in name:
        return None
    found = [library for library in threadpool_info() if library["internal_api"] == "openblas"]
    # A wheel's own copy is in numpy.libs; other builds share the system's.
    own = [library for library in found if "numpy.libs" in library["filepath"]]
    return next(iter(own or found), None)


def facts() -> dict[str, str]:
    """Return what, besides params and code, determines the bits of a result in this process.

    Portable kernels are one, wherever they run: a training goes on after a kill on another machine.
    """
    import numpy as np
    import scipy
    import torch

    versions = {"numpy": np.__version__, "scipy": scipy.__version__, "torch": torch.__version__}
    if kernels_are_portable():
        return versions | {"kernels": "portable"}
    kernels = {"kernels": torch.backends.cpu.get_cpu_capability()}
    return versions | kernels | {"machine": platform.machine()}


def kernels_are_portable() -> bool:
    """Return whether this process was pinned to `portable`, with effect."""
    from image_pipeline.numerics.registration import registered

    return "sum.dim_IntList" in registered() and not why_not_portable()
