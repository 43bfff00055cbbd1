"""The same bits on every x86-64 machine: which kernels compute, and on how many threads.

A sum of floats depends on the order of its terms, and the order on the kernel that a library picks
for the processor it finds and on the number of threads. `pin` takes that choice away from the
libraries. It must run before torch and numpy are first imported, so the stages call it first and
import the rest after.

What `portable` sets, and why:

- Matrix products go through NumPy's OpenBLAS with its Haswell (AVX2) kernels, which run on every
  processor since 2013, Intel's and AMD's, whatever it could do beyond. Torch's own library (MKL)
  has no such setting: `MKL_CBWR=AVX2` is ignored on AMD, and `COMPATIBLE` costs two to three
  times the time.
- Torch's own kernels are held to their AVX2 build and to one thread. At this size of layer they
  gain nothing from a second one, and two pools of waiting threads slow each other down.
- OpenBLAS gets exactly `threads` threads, also where fewer processors are to be had: the number
  decides where a product is cut up, so it is part of the result. One is the default: the second
  core augments the next images meanwhile, and on a busy machine threads that wait for each other
  after every product make it ten times slower.

`fast` lets the libraries choose: the bits are then this machine's own.
"""

import ctypes
import os
import platform
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Numerics = Literal["portable", "fast"]

PINNED_ENVIRONMENT = {
    "OPENBLAS_CORETYPE": "Haswell",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_CBWR": "COMPATIBLE",  # for the vector functions that torch takes from MKL
}

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as <malloc.h> has them

CPU_FACTS = Path("/proc/cpuinfo")

_overrides: list[Any] = []  # a torch.library.Library unregisters its kernels when it is collected


def pin(numerics: Numerics, threads: int) -> None:
    """Fix kernels and thread counts for the rest of this process.

    Args:
        numerics: `portable` for the same bits on every x86-64 processor with AVX2, `fast` for
            whatever is fastest on this one.
        threads: threads of the matrix products.

    Warns on standard error, in one line, when the pin of `portable` could not take effect.
    """
    # A library that is loaded has read its variables; a second pin of one process changes nothing.
    pinned = PINNED_ENVIRONMENT.items() <= os.environ.items()
    already = [name for name in ("numpy", "torch") if name in sys.modules and not pinned]
    if numerics == "portable" and _has_avx2():  # else the AVX2 kernels would kill the process
        os.environ.update(PINNED_ENVIRONMENT)

    import torch
    from threadpoolctl import threadpool_limits

    _keep_freed_memory()
    threadpool_limits(threads, user_api="blas")
    if numerics == "fast":
        torch.set_num_threads(threads)
        return
    torch.set_num_threads(1)
    # The same as use_deterministic_algorithms(True), which imports the compiler: a second a stage.
    torch.set_deterministic_debug_mode("error")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    _multiply_with_numpy()
    if reasons := why_not_portable(threads, already):
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


def _has_avx2() -> bool:
    """Tell whether the processor has AVX2, from a file: no library may be loaded yet."""
    try:
        text = CPU_FACTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True  # not Linux
    flags = [line for line in text.splitlines() if line.startswith("flags")]
    return not flags or "avx2" in flags[0].split()


def why_not_portable(threads: int, imported_before_the_pin: Sequence[str]) -> list[str]:
    """Return what stands between this process and portable bits; an empty list where nothing does.

    Args:
        threads: of the matrix products, as they were asked for.
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
    if library["num_threads"] != threads:
        reasons.append(f"OpenBLAS has {library['num_threads']} threads, not {threads}")
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


def _multiply_with_numpy() -> None:
    """Give torch's float matrix products on the CPU, forward and backward, to NumPy's OpenBLAS.

    Every dense layer ends in `aten::mm` or `aten::addmm`, so the model and the training loop stay
    plain torch. See https://docs.pytorch.org/docs/stable/library.html.
    """
    import numpy as np
    import torch

    def matrix_product(left: "torch.Tensor", right: "torch.Tensor") -> "torch.Tensor":
        if left.dtype == torch.bfloat16:  # NumPy has no such type
            return matrix_product(left.float(), right.float()).bfloat16()
        return torch.from_numpy(np.matmul(left.detach().numpy(), right.detach().numpy()))

    def biased_matrix_product(
        bias: "torch.Tensor",
        left: "torch.Tensor",
        right: "torch.Tensor",
        *,
        beta: float = 1,
        alpha: float = 1,
    ) -> "torch.Tensor":
        if beta == 0:  # as torch has it, the bias is then not even read
            return matrix_product(left, right) * alpha
        if alpha != 1 or beta != 1:
            return bias * beta + matrix_product(left, right) * alpha
        return matrix_product(left, right).add_(bias.detach())

    if _overrides:
        return
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        # Torch warns that a kernel of its own is replaced, which is the purpose.
        warnings.filterwarnings("ignore", message=".*Overriding a previously registered kernel.*")
        library.impl("mm", matrix_product, "CPU")
        library.impl("addmm", biased_matrix_product, "CPU")
    _overrides.append(library)


def facts() -> dict[str, str]:
    """Return what, beside the parameters, determines the bits of a result on this machine."""
    import numpy as np
    import scipy
    import torch

    versions = {"numpy": np.__version__, "scipy": scipy.__version__, "torch": torch.__version__}
    kernels = {"kernels": torch.backends.cpu.get_cpu_capability()}
    return versions | kernels | {"machine": platform.machine()}
