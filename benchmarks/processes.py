"""A clone of the project, and its commands measured from outside: seconds, peak of memory."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import ROOT
from ruamel.yaml import YAML

POLL = 0.004  # seconds
POLLS_PER_LOOK = 50  # for new processes, and at what they share, which costs more


@dataclass(frozen=True)
class Measured:
    """Seconds from start to end; the peak of anonymous memory in MB, the page cache left out.

    Memory is that of the process and of those that it started, together. What several of them share
    counts once.
    """

    seconds: float
    peak_mb: float
    output: str


def clone_project(folder: Path) -> None:
    """Clone the project's last commit."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)


def set_params(folder: Path, **changes: Any) -> None:
    """Set keys of the blocks `download` and `train` in a clone's params.yaml."""
    yaml = YAML()
    path = folder / "params.yaml"
    params = yaml.load(path.read_text())
    for key, value in changes.items():
        params["download" if key in params["download"] else "train"][key] = value
    yaml.dump(params, path)


def use_photographs(folder: Path, images: str) -> None:
    """Set a clone's params to the photographs in a folder, 32 x 32 pixels in colour."""
    yaml = YAML()
    path = folder / "params.yaml"
    params = yaml.load(path.read_text())
    params["download"]["folder"]["path"] = images
    params["tensorize"]["folder"] |= {"channels": 3, "image_size": 32}
    yaml.dump(params, path)


def measure(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Measured:
    """Run a command in `folder`, with Linux's /proc at hand; end this process where it fails."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src"), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    family, polls = [process.pid], 0
    while process.poll() is None:
        if polls % POLLS_PER_LOOK == POLLS_PER_LOOK - 1:
            family = [process.pid, *_children(process.pid)]
            if len(family) > 1:
                peak = max(peak, sum(map(_share_of_anonymous_kb, family)))
        if len(family) == 1:
            peak = max(peak, _anonymous_kb(process.pid))
        polls += 1
        time.sleep(POLL)
    seconds = time.perf_counter() - start
    output = process.stdout.read() if process.stdout else ""
    if process.returncode:
        sys.exit(f"{' '.join(command)}: exit status {process.returncode}\n{output}")
    return Measured(seconds, peak / 1024, output)


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def _anonymous_kb(pid: int) -> int:
    return _sum_kb(Path(f"/proc/{pid}/status"), "RssAnon|RssShmem")


def _share_of_anonymous_kb(pid: int) -> int:
    """Return the same, what N processes share divided by N."""
    return _sum_kb(Path(f"/proc/{pid}/smaps_rollup"), "Pss_Anon|Pss_Shmem")


def _sum_kb(path: Path, names: str) -> int:
    try:
        found = re.findall(rf"^(?:{names}):\s+(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:  # it has just ended
        return 0
    return sum(map(int, found))
