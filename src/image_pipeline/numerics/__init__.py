"""The same bits on every x86-64 machine: which kernels compute.

A sum of floats depends on the order of its terms, and the order on the kernel that a library picks
for the processor it finds and on the number of threads. `pin` takes that choice away from the
libraries. It must run before torch and numpy are first imported, so the stages call it first and
import the rest after.

What `portable` sets, and why:

- Matrix products are NumPy's (see `kernels`), on OpenBLAS with its Haswell (AVX2) kernels, which
  run on every processor since 2013, Intel's and AMD's, whatever it could do beyond. Torch's own
  library (MKL) has no such setting: `MKL_CBWR=AVX2` is ignored on AMD, and `COMPATIBLE` costs two
  to three times the time.
- Torch's own kernels are held to their AVX2 build, and so are oneDNN's, which compute convolutions.
- The shortcut of attention layers in evaluation is switched off: what it is made of is hidden in
  one operation, so that no kernel in it could be replaced.
- Every library gets one thread. Where more cores are to be had, several processes compute, each on
  images of its own (see `training`): threads that share a product wait for each other after each,
  and on a busy machine that makes it ten times slower.

`portability` tells which operations of a step are not known to give the same bits.

`fast` lets the libraries choose their kernels: the bits are then this machine's own. Two choices
are corrected. On AMD's processors, which MKL neglects, matrix products are NumPy's there, too. And
Zen 4 computes an AVX-512 instruction as two halves (AMD, "Software Optimization Guide for the AMD
Zen4 Microarchitecture"): the AVX2 kernels are the faster ones there, by an eighth for the product
of the first layer, by three quarters for the softmax of ten classes.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

Numerics = Literal["portable", "fast"]

AVX2_KERNELS = {"OPENBLAS_CORETYPE": "Haswell", "ATEN_CPU_CAPABILITY": "avx2"}
PINNED_ENVIRONMENT = {
    **AVX2_KERNELS,
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",  # for the vector functions that torch takes from MKL
}

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as <malloc.h> has them

CPU_FACTS = Path("/proc/cpuinfo")


def pin(numerics: Numerics) -> None:
    """Fix the kernels, and one thread each, for the rest of this process.

    Args:
        numerics: `portable` for the same bits on every x86-64 processor with AVX2, `fast` for
            whatever is fastest on this one.

    Warns on standard error, in one line, when the pin of `portable` could not take effect.
    """
    # A library that is loaded has read its variables; a second pin of one process changes nothing.
    pinned = PINNED_ENVIRONMENT.items() <= os.environ.items()
    already = [name for name in ("numpy", "torch") if name in sys.modules and not pinned]
    processor = _processor()
    if numerics == "portable":
        if has_avx2(processor):  # else the AVX2 kernels would kill the process
            os.environ.update(PINNED_ENVIRONMENT)
    elif _halves_avx512(processor):
        for name, value in AVX2_KERNELS.items():
            os.environ.setdefault(name, value)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # else it starts them, before the limit below

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
    # The same as use_deterministic_algorithms(True), which imports the compiler: a second a stage.
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if reasons := why_not_portable(already):
        print(
            f"WARNING: numerics: portable could not take effect ({'; '.join(reasons)}): "
            "the results will be as good, but their bits may differ from the committed ones.",
            file=sys.stderr,
            flush=True,
        )


def _keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next step, instead of giving it back.

    Getting it anew from the system, page by page, took a tenth of the training time. glibc only:
    https://man7.org/linux/man-pages/man3/mallopt.3.html.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


def _processor() -> dict[str, str]:
    """Return what Linux tells of the first processor, from a file: no library may be loaded yet."""
    try:
        text = CPU_FACTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}  # not Linux
    lines = text.partition("\n\n")[0].splitlines()
    return {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }


def has_avx2(processor: dict[str, str] | None = None) -> bool:
    """Tell whether the processor, this machine's unless it is given, has AVX2, if that is known."""
    processor = _processor() if processor is None else processor
    return "flags" not in processor or "avx2" in processor["flags"].split()


def _halves_avx512(processor: dict[str, str]) -> bool:
    """Tell whether it is a Zen 4: of AMD's family 25 (Zen 3 and 4), the one that has AVX-512."""
    named = processor.get("vendor_id") == "AuthenticAMD" and processor.get("cpu family") == "25"
    return named and "avx512f" in processor.get("flags", "").split()


def why_not_portable(imported_before_the_pin: Sequence[str]) -> list[str]:
    """Return what stands between this process and portable bits; an empty list where nothing does.

    Args:
        imported_before_the_pin: modules that had read the environment before it was set.
    """
    import torch

    reasons = [f"{name} was imported before the pin" for name in imported_before_the_pin]
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return [*reasons, f"the processor is {platform.machine()}, not x86-64"]
    if platform.system() != "Linux":  # other compilers made the libraries there
        reasons.append(f"the system is {platform.system()}, not Linux")
    capability = torch.backends.cpu.get_cpu_capability()
    if capability != "AVX2":
        reasons.append(f"torch computes with {capability}, not AVX2")
    library = _numpys_openblas()
    if library is None:
        reasons.append("NumPy's matrix products do not come from OpenBLAS")
        return reasons
    if library.get("architecture") != "Haswell":
        reasons.append(f"OpenBLAS's kernels are {library.get('architecture')}, not Haswell")
    if library["num_threads"] != 1:
        reasons.append(f"OpenBLAS has {library['num_threads']} threads, not 1")
    return reasons


def _numpys_openblas() -> dict[str, Any] | None:
    """Return what threadpoolctl knows of NumPy's own OpenBLAS; SciPy brings another one."""
    import numpy as np
    from threadpoolctl import threadpool_info

    name = str(np.__config__.CONFIG["Build Dependencies"]["blas"]["name"])
    if "openblas" not in name:
        return None
    found = [library for library in threadpool_info() if library["internal_api"] == "openblas"]
    # A wheel's copy lies in numpy.libs; elsewhere all share the system's.
    own = [library for library in found if "numpy.libs" in library["filepath"]]
    return next(iter(own or found), None)


def facts() -> dict[str, str]:
    """Return what, beside the parameters, determines the bits of a result on this machine."""
    import numpy as np
    import scipy
    import torch

    versions = {"numpy": np.__version__, "scipy": scipy.__version__, "torch": torch.__version__}
    kernels = {"kernels": torch.backends.cpu.get_cpu_capability()}
    return versions | kernels | {"machine": platform.machine()}
