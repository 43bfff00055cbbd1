"""Run commands in a clone of the project; measure their seconds and peak memory from outside."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import ROOT
from ruamel.yaml import YAML

from image_pipeline.commands.recipe import read_recipe, with_recipe

POLL = 0.004  # seconds
POLLS_PER_SCAN = 50  # for child processes and shared memory, which takes longer


@dataclass(frozen=True)
class Measured:
    """Wall time, and the peak of anonymous memory in MB, without the page cache.

    Memory is the sum over the process and its children; shared memory counts once.
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


def use_recipe(folder: Path, name: str) -> None:
    """Set a clone's params to a recipe."""
    path = folder / "params.yaml"
    path.write_text(with_recipe(path.read_text(), read_recipe(name)))


def use_photographs(folder: Path, images: str, image_size: int, channels: int = 3) -> None:
    """Set a clone's params to a folder of images, as squares of `image_size` pixels."""
    yaml = YAML()
    path = folder / "params.yaml"
    params = yaml.load(path.read_text())
    params["download"]["folder"]["path"] = str(Path(images).resolve())
    params["tensorize"]["folder"] |= {"channels": channels, "image_size": image_size}
    yaml.dump(params, path)


def measure(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> Measured:
    """Run a command in `folder`, on Linux; exit if it fails."""
    with tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder / "src"), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        peak = _peak_until_its_end(process)
        seconds = time.perf_counter() - start
        errors.seek(0)
        output, said = process.stdout.read() if process.stdout else "", errors.read()
    if process.returncode:
        name = " ".join(command)
        sys.exit(f"{name}: exit status {process.returncode}\n{output}\n{said[-3000:]}")
    return Measured(seconds, peak / 1024, output)


def _peak_until_its_end(process: subprocess.Popen[str]) -> int:
    processes, polls, peak = [process.pid], 0, 0
    while process.poll() is None:
        if polls % POLLS_PER_SCAN == POLLS_PER_SCAN - 1:
            processes = [process.pid, *_children(process.pid)]
            if len(processes) > 1:
                peak = max(peak, sum(map(_share_of_anonymous_kb, processes)))
        if len(processes) == 1:
            peak = max(peak, _anonymous_kb(process.pid))
        polls += 1
        time.sleep(POLL)
    return peak


def worker(script: str, *arguments: str, **environment: str) -> list[Any]:
    """Run a benchmark script; return what it printed, one JSON value per line."""
    command = [sys.executable, f"benchmarks/{script}.py", *arguments]
    env = os.environ | environment
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def seconds_of_public_epoch() -> float:
    """Time the public recipe, the measure of how fast this machine is now."""
    epochs = worker("learners", "public", "--epochs", "2")
    return float(epochs[-1]["seconds"]) / len(epochs)


def _children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has just ended
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def _anonymous_kb(pid: int) -> int:
    return _sum_kb(Path(f"/proc/{pid}/status"), "RssAnon|RssShmem")


def _share_of_anonymous_kb(pid: int) -> int:
    """Return the same, with memory that N processes share divided by N."""
    return _sum_kb(Path(f"/proc/{pid}/smaps_rollup"), "Pss_Anon|Pss_Shmem")


def _sum_kb(path: Path, names: str) -> int:
    try:
        found = re.findall(rf"^(?:{names}):\s+(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:  # the process has just ended
        return 0
    return sum(map(int, found))
