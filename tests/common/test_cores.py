"""How many cores there are: those that a process is bound to, and those that it is granted."""

import os
import sys
from pathlib import Path

from project import require, run

COUNT = "from image_pipeline.common.cores import available_cores; print(available_cores())"
QUOTAS = Path("/sys/fs/cgroup")


def counted(before: str) -> int:
    """Return what a new process counts that runs `before` first."""
    script = f"import os; {before}\n{COUNT}"
    return int(run(sys.executable, "-c", script).stdout)


def elsewhere(folder: Path) -> str:
    """Return what has a process find the files of its control group in another folder."""
    return (
        "import builtins\n"
        f"there = lambda path: str(path).replace({str(QUOTAS)!r}, {str(folder)!r})\n"
        "exists, reading = os.path.exists, open\n"
        "os.path.exists = lambda path: exists(there(path))\n"
        "builtins.open = lambda path, *rest, **more: reading(there(path), *rest, **more)\n"
    )


def test_cores_are_those_this_process_is_bound_to(tmp_path: Path) -> None:
    require(hasattr(os, "sched_setaffinity"), "a system that binds processes to cores")
    assert counted("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})") == 1
    assert counted(elsewhere(tmp_path)) == len(os.sched_getaffinity(0))


def test_cores_are_those_a_container_grants(tmp_path: Path) -> None:
    """On a machine that claims 64."""
    claim = "os.cpu_count = lambda: 64\nos.sched_getaffinity = lambda _: set(range(64))\n"
    for quota, cores in (("150000", 2), ("max", 64)):
        (tmp_path / "cpu.max").write_text(f"{quota} 100000\n")
        assert counted(claim + elsewhere(tmp_path)) == cores
